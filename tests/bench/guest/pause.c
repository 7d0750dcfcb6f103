/* SPDX-License-Identifier: Apache-2.0 */
/* What holds a pod's namespaces for the reference runtime: waits until it is told to end, and reaps. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void on_end(int sig)
{
    (void)sig;
    _exit(0);
}

static void on_child(int sig)
{
    (void)sig;
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
}

int main(void)
{
    (void)signal(SIGTERM, on_end);
    (void)signal(SIGINT, on_end);
    (void)signal(SIGCHLD, on_child);
    for (;;)
        (void)pause();
}
