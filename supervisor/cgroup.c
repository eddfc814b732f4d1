/*
 * A cgroup for each worker, where the operator has prepared a place for them:
 * it limits the worker's memory, and its counter tells a kill for want of
 * memory from one by somebody else.  Versions 1 and 2 are alike here.
 */
#include <sys/stat.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "common/mem.h"
#include "supervisor/supervisor.h"

/* Version 2 first, then 1. */
static const char *const limit_files[] = { "memory.max",
    "memory.limit_in_bytes" };
static const char *const count_files[] = { "memory.events",
    "memory.oom_control" };

static char *
path_of(const struct child *c, const char *file)
{
	return (xasprintf("%s/%s-worker-%u%s%s", c->s->conf.cgroup,
	    c->s->conf.name, c->number, file[0] == '\0' ? "" : "/", file));
}

static int
open_file(const struct child *c, const char *file, int flags)
{
	char *path = path_of(c, file);
	int fd = open(path, flags | O_CLOEXEC);

	free(path);
	return (fd);
}

static bool
wanted(const struct child *c)
{
	return (c->role == CHILD_WORKER && c->s->conf.cgroup[0] != '\0');
}

static int
set_limit(const struct child *c, struct err *err)
{
	char text[32];
	size_t i;
	int fd = -1, n;
	bool ok;

	if (c->s->conf.worker_memory == 0)
		return (0);
	for (i = 0; i < 2 && fd == -1; i++)
		fd = open_file(c, limit_files[i], O_WRONLY);
	if (fd == -1)
		return (err_sys(err, ERR_CONFIG, "worker-memory: the cgroup "
		    "%s has no memory controller", c->s->conf.cgroup));
	n = snprintf(text, sizeof(text), "%" PRId64,
	    c->s->conf.worker_memory);
	ok = write(fd, text, (size_t)n) == n;
	if (!ok)
		(void)err_sys(err, ERR_CONFIG, "worker-memory: cannot set it "
		    "in the cgroup %s", c->s->conf.cgroup);
	close(fd);
	return (ok ? 0 : -1);
}

/* A descriptor whose writer joins, -1 with err ERR_NONE: none is wanted. */
int
cgroup_open(struct child *c, struct err *err)
{
	char *path;
	int fd;

	err->code = ERR_NONE;
	if (!wanted(c))
		return (-1);
	path = path_of(c, "");
	if (mkdir(path, 0755) == -1 && errno != EEXIST) {
		(void)err_sys(err, ERR_CONFIG, "cannot make the cgroup %s",
		    path);
		free(path);
		return (-1);
	}
	free(path);
	if (set_limit(c, err) == -1)
		return (-1);
	if ((fd = open_file(c, "cgroup.procs", O_WRONLY)) == -1)
		(void)err_sys(err, ERR_CONFIG, "%s is no place for cgroups",
		    c->s->conf.cgroup);
	return (fd);
}

int
cgroup_join(struct child *c, pid_t pid, struct err *err)
{
	char text[32];
	int fd = cgroup_open(c, err), n, r = 0;

	if (fd == -1)
		return (err->code == ERR_NONE ? 0 : -1);
	n = snprintf(text, sizeof(text), "%d", (int)pid);
	if (write(fd, text, (size_t)n) != n)
		r = err_sys(err, ERR_SYSTEM, "cannot move a spare to the "
		    "cgroup of worker %u", c->number);
	close(fd);
	return (r);
}

/* The line "oom_kill N" of a cgroup's file; 0: there is none. */
uint64_t
cgroup_count(const char *text)
{
	const char *p;

	for (p = text; p != NULL; p = strchr(p, '\n')) {
		p += *p == '\n';
		if (strncmp(p, "oom_kill ", 9) == 0)
			return (strtoull(p + 9, NULL, 10));
	}
	return (0);
}

static int
open_counter(const struct child *c)
{
	size_t i;
	int fd = -1;

	for (i = 0; i < 2 && fd == -1; i++)
		fd = open_file(c, count_files[i], O_RDONLY);
	return (fd);
}

/* Without it every record that takes all memory is tried forever. */
void
cgroup_check(const struct child *c)
{
	char *path;
	int fd;

	if (!wanted(c))
		return;
	if ((fd = open_counter(c)) != -1) {
		close(fd);
		return;
	}
	path = path_of(c, "");
	log_warn("the cgroup counts no kills for want of memory cgroup=%s: "
	    "enable the memory controller in cgroup.subtree_control above "
	    "it, or no record that takes all memory is set aside", path);
	free(path);
}

/* How many processes of this worker were killed for want of memory, ever. */
uint64_t
cgroup_oom_kills(const struct child *c)
{
	char text[1024];
	ssize_t n;
	int fd;

	if (!wanted(c) || (fd = open_counter(c)) == -1)
		return (0);
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return (0);
	text[n] = '\0';
	return (cgroup_count(text));
}

void
cgroup_close(struct child *c)
{
	char *path;

	if (!wanted(c))
		return;
	path = path_of(c, "");
	(void)rmdir(path);
	free(path);
}
