/* Where the worker's program is: beside ours, or where it was installed. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/mem.h"
#include "supervisor/supervisor.h"

char *
spawn_program(bool trust_environment)
{
	char exe[PATH_MAX], *slash, *path;
	const char *given = getenv("WALLAROO_WORKER");
	ssize_t n;

	if (trust_environment && given != NULL && given[0] == '/')
		return (xstrdup(given));
	n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	if (n > 0) {
		exe[n] = '\0';
		if ((slash = strrchr(exe, '/')) != NULL)
			*slash = '\0';
		path = xasprintf("%s/wallaroo-worker", exe);
		/* EACCES: it may be there, but not for our user: say so
		 * when it is executed, and do not look elsewhere. */
		if (access(path, X_OK) == 0 || errno == EACCES)
			return (path);
		free(path);
	}
	return (xstrdup(PKGLIBEXECDIR "/wallaroo-worker"));
}
