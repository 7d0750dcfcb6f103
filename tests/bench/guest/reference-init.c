/* SPDX-License-Identifier: Apache-2.0 */
/* PID 1 of the reference's guest (tests/bench/qemu_guest.py): loads the modules of its initramfs, then does what the
 * console tells it, a line at a time, and answers with the output and a line "done CODE":
 *   mount TYPE SOURCE DIR    read-only
 *   run ARGUMENT…            /bin/volume-reader */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define WORDS_MAX 16

static void load_modules(void)
{
    FILE *list = fopen("/modules.list", "re");
    char path[256];

    while (list && fgets(path, sizeof(path), list)) {
        int fd;

        path[strcspn(path, "\n")] = 0;
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
            perror(path);
        close(fd);
        unlink(path); /* its memory is the guest's */
    }
    if (list)
        fclose(list);
}

/* The console appears some time after its driver. */
static int open_console(void)
{
    struct termios t;
    int fd = -1;

    for (int i = 0; fd < 0 && i < 30000; i++) {
        fd = open("/dev/hvc0", O_RDWR);
        usleep(1000);
    }
    if (fd < 0)
        return -1;
    if (tcgetattr(fd, &t) == 0) {
        t.c_lflag &= ~(tcflag_t)(ECHO | ISIG);
        t.c_oflag &= ~(tcflag_t)OPOST;
        tcsetattr(fd, TCSANOW, &t);
    }
    return fd;
}

static int run(char **words)
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        words[0] = (char *)"volume-reader";
        execv("/bin/volume-reader", words);
        perror("/bin/volume-reader");
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int act(char *line)
{
    char *words[WORDS_MAX + 1] = {NULL}, *save = NULL;
    int n = 0;

    for (char *w = strtok_r(line, " \n", &save); w && n < WORDS_MAX;
         w = strtok_r(NULL, " \n", &save))
        words[n++] = w;
    if (n >= 2 && strcmp(words[0], "run") == 0)
        return run(words);
    if (n == 4 && strcmp(words[0], "mount") == 0) {
        mkdir(words[3], 0755);
        if (mount(words[2], words[3], words[1], MS_RDONLY, NULL) == 0)
            return 0;
        perror("mount");
        return 1;
    }
    return 2;
}

int main(void)
{
    char line[1024];
    int fd;

    mount("dev", "/dev", "devtmpfs", 0, NULL);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sys", "/sys", "sysfs", 0, NULL);
    load_modules();
    fd = open_console();
    if (fd < 0)
        return 1;
    for (int i = 0; i < 3; i++)
        dup2(fd, i);
    puts("done 0");
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin)) {
        printf("done %d\n", act(line));
        fflush(stdout);
    }
    for (;;)
        pause();
}
