/* SPDX-License-Identifier: Apache-2.0 */
/* fork-exec N PAUSE_US PROGRAM: fork, exec and wait of PROGRAM, N times with a pause before each, each time
 * in ns as a JSON list. Runs inside a container: what starting a process costs there, whoever asks for
 * it. With a pause the guest was idle before, as it is before an exec from outside. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now_ns(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

int main(int argc, char **argv)
{
    long n = argc == 4 ? strtol(argv[1], NULL, 10) : 0;
    long pause_us = argc == 4 ? strtol(argv[2], NULL, 10) : -1;
    const struct timespec pause = {.tv_sec = pause_us / 1000000,
                                   .tv_nsec = pause_us % 1000000 * 1000};

    if (n <= 0 || pause_us < 0)
        return 2;
    (void)printf("[");
    (void)fflush(stdout);
    for (long i = 0; i < n; i++) {
        long long start;
        pid_t pid;
        int status = -1;

        if (pause_us)
            (void)nanosleep(&pause, NULL);
        start = now_ns();
        pid = fork();
        if (pid == 0) {
            (void)execl(argv[3], argv[3], (char *)NULL);
            _exit(127);
        }
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
            return 1;
        (void)printf("%s%lld", i ? "," : "", now_ns() - start);
    }
    (void)printf("]\n");
    return 0;
}
