/*
 * A cgroup for each worker and connector, where the operator has prepared a
 * place for them: it limits the memory, and its counter tells a kill for want
 * of memory from one by somebody else.  Versions 1 and 2 are alike here.
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

/* One of them. */
struct group {
	const struct supervisor	*s;
	char			 name[96];	/* behind the application's */
	int64_t			 limit;
	const char		*setting;	/* that says so */
};

/* false: there is none. */
static bool
of_child(const struct child *c, struct group *g)
{
	if (c->role != CHILD_WORKER || c->s->conf.cgroup[0] == '\0')
		return (false);
	g->s = c->s;
	g->limit = c->s->conf.worker_memory;
	g->setting = "worker-memory";
	(void)snprintf(g->name, sizeof(g->name), "worker-%u", c->number);
	return (true);
}

static bool
of_connector(const struct supervisor *s, const struct conf_connector *c,
    struct group *g)
{
	if (s->conf.cgroup[0] == '\0')
		return (false);
	g->s = s;
	g->limit = c->memory_limit;
	g->setting = "memory-limit";
	(void)snprintf(g->name, sizeof(g->name), "connector-%s", c->name);
	return (true);
}

static char *
path_of(const struct group *g, const char *file)
{
	return (xasprintf("%s/%s-%s%s%s", g->s->conf.cgroup, g->s->conf.name,
	    g->name, file[0] == '\0' ? "" : "/", file));
}

static int
open_file(const struct group *g, const char *file, int flags)
{
	char *path = path_of(g, file);
	int fd = open(path, flags | O_CLOEXEC);

	free(path);
	return (fd);
}

static int
set_limit(const struct group *g, struct err *err)
{
	char text[32];
	size_t i;
	int fd = -1, n;
	bool ok;

	if (g->limit == 0)
		return (0);
	for (i = 0; i < 2 && fd == -1; i++)
		fd = open_file(g, limit_files[i], O_WRONLY);
	if (fd == -1)
		return (err_sys(err, ERR_CONFIG, "%s: the cgroup %s has no "
		    "memory controller", g->setting, g->s->conf.cgroup));
	n = snprintf(text, sizeof(text), "%" PRId64, g->limit);
	ok = write(fd, text, (size_t)n) == n;
	if (!ok)
		(void)err_sys(err, ERR_CONFIG, "%s: cannot set it in the "
		    "cgroup %s", g->setting, g->s->conf.cgroup);
	close(fd);
	return (ok ? 0 : -1);
}

static int
open_group(const struct group *g, struct err *err)
{
	char *path = path_of(g, "");
	int fd;

	if (mkdir(path, 0755) == -1 && errno != EEXIST) {
		(void)err_sys(err, ERR_CONFIG, "cannot make the cgroup %s",
		    path);
		free(path);
		return (-1);
	}
	free(path);
	if (set_limit(g, err) == -1)
		return (-1);
	if ((fd = open_file(g, "cgroup.procs", O_WRONLY)) == -1)
		(void)err_sys(err, ERR_CONFIG, "%s is no place for cgroups",
		    g->s->conf.cgroup);
	return (fd);
}

/* A descriptor whose writer joins, -1 with err ERR_NONE: none is wanted. */
int
cgroup_open(struct child *c, struct err *err)
{
	struct group g;

	err->code = ERR_NONE;
	return (of_child(c, &g) ? open_group(&g, err) : -1);
}

int
cgroup_connector(const struct supervisor *s, const struct conf_connector *c,
    struct err *err)
{
	struct group g;

	err->code = ERR_NONE;
	return (of_connector(s, c, &g) ? open_group(&g, err) : -1);
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
open_counter(const struct group *g)
{
	size_t i;
	int fd = -1;

	for (i = 0; i < 2 && fd == -1; i++)
		fd = open_file(g, count_files[i], O_RDONLY);
	return (fd);
}

/* Without it every record that takes all memory is tried forever. */
void
cgroup_check(const struct child *c)
{
	struct group g;
	char *path;
	int fd;

	if (!of_child(c, &g))
		return;
	if ((fd = open_counter(&g)) != -1) {
		close(fd);
		return;
	}
	path = path_of(&g, "");
	log_warn("the cgroup counts no kills for want of memory cgroup=%s: "
	    "enable the memory controller in cgroup.subtree_control above "
	    "it, or no record that takes all memory is set aside", path);
	free(path);
}

static uint64_t
read_counter(const struct group *g)
{
	char text[1024];
	ssize_t n;
	int fd;

	if ((fd = open_counter(g)) == -1)
		return (0);
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return (0);
	text[n] = '\0';
	return (cgroup_count(text));
}

/* How many processes of this worker were killed for want of memory, ever. */
uint64_t
cgroup_oom_kills(const struct child *c)
{
	struct group g;

	return (of_child(c, &g) ? read_counter(&g) : 0);
}

uint64_t
cgroup_connector_kills(const struct supervisor *s,
    const struct conf_connector *c)
{
	struct group g;

	return (of_connector(s, c, &g) ? read_counter(&g) : 0);
}

static void
remove_group(const struct group *g)
{
	char *path = path_of(g, "");

	(void)rmdir(path);
	free(path);
}

void
cgroup_close(struct child *c)
{
	struct group g;

	if (of_child(c, &g))
		remove_group(&g);
}

void
cgroup_connector_close(const struct supervisor *s,
    const struct conf_connector *c)
{
	struct group g;

	if (of_connector(s, c, &g))
		remove_group(&g);
}
