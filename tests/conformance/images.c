// SPDX-License-Identifier: Apache-2.0
// The two programs of critest's images that no Debian package has; which one it is says its name.
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    (void)argc;
    if (strstr(argv[0], "nonewprivs")) {
        printf("Effective uid: %d\n", (int)geteuid());
        return 0;
    }
    for (;;)
        pause();
}
