/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "cli/command.h"

const struct command *const commands[] = {
    &command_run,     &command_ps,   &command_pods, &command_images,
    &command_pull,    &command_exec, &command_logs, &command_inspect,
    &command_stop,    &command_rm,   &command_rmi,  &command_doctor,
    &command_version, NULL,
};

const struct command *command_find(const char *name)
{
    for (size_t i = 0; commands[i]; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}
