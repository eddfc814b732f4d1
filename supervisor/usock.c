/*
 * Unix sockets at paths of any length: a sockaddr_un holds 107 bytes, so a
 * longer path is reached through a descriptor of its directory.
 */
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/mem.h"
#include "supervisor/supervisor.h"

#define BACKLOG	16

char *
usock_path(const struct conf_app *conf)
{
	if (conf->control_socket[0] != '\0')
		return (xstrdup(conf->control_socket));
	return (xasprintf("%s/control.sock", conf->state_directory));
}

/* *dir: to be closed after use, or -1. */
static int
make_address(struct sockaddr_un *sun, const char *path, int *dir,
    struct err *err)
{
	const char *slash = strrchr(path, '/');
	char *parent;
	int n;

	memset(sun, 0, sizeof(*sun));
	sun->sun_family = AF_UNIX;
	*dir = -1;
	if (strlen(path) < sizeof(sun->sun_path)) {
		memcpy(sun->sun_path, path, strlen(path));
		return (0);
	}
	if (slash == NULL || slash == path)
		return (err_set(err, ERR_CONFIG, "%s is too long", path));
	parent = xstrndup(path, (size_t)(slash - path));
	*dir = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
	free(parent);
	if (*dir == -1)
		return (err_sys(err, ERR_SYSTEM, "%s", path));
	n = snprintf(sun->sun_path, sizeof(sun->sun_path),
	    "/proc/self/fd/%d%s", *dir, slash);
	if (n < 0 || (size_t)n >= sizeof(sun->sun_path)) {
		close(*dir);
		*dir = -1;
		return (err_set(err, ERR_CONFIG, "%s is too long", path));
	}
	return (0);
}

int
usock_listen(const char *path, struct err *err)
{
	struct sockaddr_un sun;
	mode_t mask;
	int dir, fd, r;

	if (make_address(&sun, path, &dir, err) == -1)
		return (-1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	/* An earlier supervisor's; the state directory's lock is ours. */
	(void)unlink(sun.sun_path);
	mask = umask(0177);
	r = fd == -1 ? -1 : bind(fd, (struct sockaddr *)&sun, sizeof(sun));
	(void)umask(mask);
	if (r == -1 || listen(fd, BACKLOG) == -1) {
		(void)err_sys(err, ERR_SYSTEM, "control socket %s", path);
		if (fd != -1)
			close(fd);
		fd = -1;
	}
	if (dir != -1)
		close(dir);
	return (fd);
}

int
usock_connect(const char *path, struct err *err)
{
	struct sockaddr_un sun;
	int dir, fd;

	if (make_address(&sun, path, &dir, err) == -1)
		return (-1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd == -1 || connect(fd, (struct sockaddr *)&sun, sizeof(sun)) ==
	    -1) {
		(void)err_sys(err, ERR_SYSTEM, "%s", path);
		if (fd != -1)
			close(fd);
		fd = -1;
	}
	if (dir != -1)
		close(dir);
	return (fd);
}
