/*
 * Children that user code forks.  One that does not exec would keep what the
 * worker has open: a connection that seems alive after its worker's death, a
 * journal that is not free.  Pages are not inherited (MADV_DONTFORK), a lock
 * of fcntl(2) is not either; descriptors are closed here, those of the worker
 * alone: the child's own pipes and sockets are none of our business.
 *
 * A child made by vfork(2) or posix_spawn(3) does not come here; it execs,
 * and every descriptor of ours is closed by that.
 */
#include <dirent.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/worker.h"

static struct worker *parent;

static void
drop(int fd)
{
	if (fd != -1)
		close(fd);
}

static void
drop_known(struct worker *w)
{
	size_t i, n = (size_t)w->topo.nexchanges * w->n;
	struct conn *c, *next;

	drop(WORKER_CHANNEL);
	HASH_ITER(hh, w->conns, c, next)
		drop(c->fd);
	for (i = 0; w->peers != NULL && i < w->n; i++)
		drop(w->peers[i].fd);
	for (i = 0; w->sinks != NULL && i < w->topo.nsinks; i++) {
		drop(w->sinks[i].fd);
		if (w->sinks[i].box.h != NULL)
			drop(w->sinks[i].box.fd);
	}
	for (i = 0; w->sources != NULL && i < w->topo.nsources; i++) {
		drop(w->sources[i].fd);
		drop(w->sources[i].in);
	}
	for (i = 0; w->peer_box != NULL && i < n; i++)
		if (w->peer_box[i].h != NULL)
			drop(w->peer_box[i].fd);
	if (w->journal.h != NULL)
		drop(w->journal.fd);
}

/* SQLite does not tell its descriptors: they are known by the file's name,
 * which -wal and -shm begin with. */
static void
drop_database(struct worker *w)
{
	char link[64], target[PATH_MAX];
	const char *base, *name;
	struct dirent *d;
	ssize_t len;
	DIR *dir;

	if (w->store.path == NULL || (dir = opendir("/proc/self/fd")) == NULL)
		return;
	base = strrchr(w->store.path, '/');
	base = base == NULL ? w->store.path : base + 1;
	while ((d = readdir(dir)) != NULL) {
		if (atoi(d->d_name) <= WORKER_CHANNEL ||
		    atoi(d->d_name) == dirfd(dir))
			continue;
		snprintf(link, sizeof(link), "/proc/self/fd/%.20s",
		    d->d_name);
		if ((len = readlink(link, target, sizeof(target) - 1)) == -1)
			continue;
		target[len] = '\0';
		name = strrchr(target, '/');
		if (name != NULL && strncmp(name + 1, base, strlen(base)) == 0)
			close(atoi(d->d_name));
	}
	closedir(dir);
}

static void
in_child(void)
{
	drop_known(parent);
	drop_database(parent);
}

void
children_guard(struct worker *w)
{
	parent = w;
	(void)pthread_atfork(NULL, NULL, in_child);
}
