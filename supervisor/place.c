/*
 * Where and as whom: the user to run as, the state directory and its lock,
 * the runtime directory on a tmpfs, and limits of the process.
 */
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/part.h"
#include "supervisor/supervisor.h"

#define FDS_BASE	96	/* loop, log, catalog, control, spare */
#define FDS_WORKER	4	/* channel, stats page, start of a new one */
#define FDS_CONNECTOR	1	/* what it writes */

/* --- limits -------------------------------------------------------------- */

uint64_t
place_fds(uint64_t workers, uint64_t tcp_sources, uint64_t tcp_sinks,
    uint64_t connections)
{
	/* All socketpairs at once is what a start needs in the worst case. */
	return (FDS_BASE + workers * FDS_WORKER + workers * (workers - 1) +
	    tcp_sources * (connections + 8) + workers * tcp_sinks * 2);
}

int
place_limits(const struct conf_app *conf, struct err *err)
{
	struct rlimit core = { 0, 0 }, files;

	(void)conf;
	/* A core of a worker holds the users' data. */
	(void)setrlimit(RLIMIT_CORE, &core);
	if (getrlimit(RLIMIT_NOFILE, &files) == -1)
		return (err_sys(err, ERR_SYSTEM, "getrlimit"));
	files.rlim_cur = files.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &files);
	return (0);
}

int
place_check_fds(struct supervisor *s, struct err *err)
{
	uint64_t sources = 0, sinks = 0, need;
	struct rlimit files;
	size_t i;

	for (i = 0; i < s->topo.nsources; i++)
		if (source_listens(&s->topo.sources[i]))
			sources++;
	for (i = 0; i < s->topo.nsinks; i++)
		if (sink_connects(&s->topo.sinks[i]))
			sinks++;
	need = place_fds(s->n, sources, sinks,
	    (uint64_t)s->conf.connections);
	need += (uint64_t)s->conf.spares * FDS_WORKER;
	need += s->conf.nconnectors * FDS_CONNECTOR;
	if (s->conf.external_address[0] != '\0')
		need += EXTERNAL_FDS;
	if (getrlimit(RLIMIT_NOFILE, &files) == -1)
		return (err_sys(err, ERR_SYSTEM, "getrlimit"));
	if (files.rlim_cur >= need)
		return (0);
	return (err_set(err, ERR_CONFIG, "too few file descriptors: %" PRIu64
	    " are allowed, %" PRIu64 " may be needed for workers = %u and "
	    "connections = %" PRId64 " of %" PRIu64 " TCP sources; raise the "
	    "limit (ulimit -n, LimitNOFILE=) or lower connections",
	    (uint64_t)files.rlim_cur, need, s->n, s->conf.connections,
	    sources));
}

/* --- directories --------------------------------------------------------- */

struct owner {
	bool	change;			/* give what is made to ... */
	uid_t	uid;
	gid_t	gid;
};

/* A directory that a power loss takes back takes all that is in it. */
static int
sync_parent(const char *path, struct err *err)
{
	char *dir = xstrdup(path), *slash = strrchr(dir, '/');
	int fd, r = 0;

	if (slash != NULL)
		slash[slash == dir] = '\0';
	fd = open(slash == NULL ? "." : dir, O_RDONLY | O_DIRECTORY |
	    O_CLOEXEC);
	/* What may not be read cannot be synced, and was there before. */
	if ((fd == -1 && errno != EACCES) || (fd != -1 && fsync(fd) == -1 &&
	    errno != EINVAL && errno != EROFS))
		r = err_sys(err, ERR_STORAGE, "cannot sync the directory of "
		    "%s", path);
	if (fd != -1)
		close(fd);
	free(dir);
	return (r);
}

/* Under another name until it is given away: whoever finds it finds it as it
 * must be, also after a death in between. */
static int
new_dir(const char *path, const struct owner *o, struct err *err)
{
	size_t len = strlen(path);
	char *new;
	int r = -1;

	while (len > 1 && path[len - 1] == '/')
		len--;
	new = xasprintf("%.*s.new", (int)len, path);
	(void)rmdir(new);			/* of a start that died */
	FAULT_POINT(dir_make_before);
	if (mkdir(new, 0700) == -1)
		(void)err_sys(err, errno == EROFS || errno == ENOSPC ?
		    ERR_STORAGE : ERR_CONFIG, "cannot make directory %s",
		    new);
	else if (o->change && lchown(new, o->uid, o->gid) == -1)
		(void)err_sys(err, ERR_CONFIG, "cannot give %s away", new);
	else if (rename(new, path) == -1)
		(void)err_sys(err, ERR_STORAGE, "cannot rename %s to %s", new,
		    path);
	else if ((r = sync_parent(path, err)) == -1)
		(void)rmdir(path);		/* the next start tries again */
	FAULT_POINT(dir_make_after);
	free(new);
	return (r);
}

/* mkdir -p; only the last one is private and given away. */
static int
make_dir(const char *path, const struct owner *o, struct err *err)
{
	char *copy = xstrdup(path), *p = copy;
	struct stat st;

	while ((p = strchr(p + 1, '/')) != NULL) {
		*p = '\0';
		if (mkdir(copy, 0755) == -1 && errno != EEXIST &&
		    stat(copy, &st) == -1) {
			(void)err_sys(err, errno == EROFS || errno == ENOSPC ?
			    ERR_STORAGE : ERR_CONFIG, "cannot make directory "
			    "%s", copy);
			free(copy);
			return (-1);
		}
		*p = '/';
	}
	free(copy);
	if (lstat(path, &st) == -1 && errno == ENOENT &&
	    new_dir(path, o, err) == -1)
		return (-1);
	if (stat(path, &st) == -1)
		return (err_sys(err, ERR_CONFIG, "%s", path));
	if (!S_ISDIR(st.st_mode))
		return (err_set(err, ERR_CONFIG, "%s is not a directory",
		    path));
	return (0);
}

static int
find_user(const struct conf_app *conf, struct passwd **pw, struct err *err)
{
	if (conf->user[0] == '\0')
		return (err_set(err, ERR_CONFIG, "%s: started as root, so "
		    "\"user\" is required: whom to run as", conf->file));
	errno = 0;
	if ((*pw = getpwnam(conf->user)) == NULL)
		return (err_set(err, ERR_CONFIG, "%s: user \"%s\" does not "
		    "exist", conf->file, conf->user));
	return (0);
}

/* Bits of capabilities(7). */
#define RIGHT(name)	(1U << (name))
#define RIGHTS_KILL	RIGHT(CAP_KILL)
#define RIGHTS_ALL	(RIGHT(CAP_KILL) | RIGHT(CAP_SETGID) |		\
	RIGHT(CAP_SETUID))

static int
set_rights(uint32_t permitted, uint32_t effective)
{
	struct __user_cap_header_struct head = {
		.version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { { 0 } };

	data[0].permitted = permitted;
	data[0].effective = effective;
	return ((int)syscall(SYS_capset, &head, data));
}

/* Whether some connector runs as another user than we do. */
static bool
others_wanted(const struct conf_app *conf)
{
	size_t i;

	for (i = 0; i < conf->nconnectors; i++)
		if (conf->connectors[i].user[0] != '\0' &&
		    strcmp(conf->connectors[i].user, conf->user) != 0)
			return (true);
	return (false);
}

/*
 * Not root any more, but for who starts connectors as other users what that
 * needs: to end them always, to become one of them when it is asked for.
 * None of that outlives an exec.
 */
static int
become(struct supervisor *s, const struct passwd *pw, struct err *err)
{
	bool others = others_wanted(&s->conf);

	if (initgroups(pw->pw_name, pw->pw_gid) == -1 ||
	    setgid(pw->pw_gid) == -1 ||
	    (others && prctl(PR_SET_KEEPCAPS, 1) == -1) ||
	    setuid(pw->pw_uid) == -1)
		return (err_sys(err, ERR_SYSTEM, "cannot become user \"%s\"",
		    pw->pw_name));
	if (pw->pw_uid != 0 && setuid(0) != -1)
		return (err_set(err, ERR_SYSTEM, "root could not be dropped"));
	if (others && (prctl(PR_SET_KEEPCAPS, 0) == -1 ||
	    set_rights(RIGHTS_ALL, RIGHTS_KILL) == -1))
		return (err_sys(err, ERR_SYSTEM, "cannot keep the rights to "
		    "start connectors as other users"));
	s->may_become = others;
	s->dropped_root = true;
	/* The user's modules find their home, not root's. */
	(void)setenv("HOME", pw->pw_dir, 1);
	(void)setenv("USER", pw->pw_name, 1);
	(void)setenv("LOGNAME", pw->pw_name, 1);
	return (0);
}

int
place_user(const struct supervisor *s, const struct conf_connector *c,
    struct user *u, struct err *err)
{
	const struct passwd *pw;

	errno = 0;
	if ((pw = getpwnam(c->user)) == NULL)
		return (err_set(err, ERR_CONFIG, "connector \"%s\": user "
		    "\"%s\" does not exist", c->name, c->user));
	if (pw->pw_uid == geteuid())
		return (0);
	if (pw->pw_uid == 0)
		return (err_set(err, ERR_CONFIG, "connector \"%s\": user "
		    "\"%s\" is root, which nothing runs as", c->name,
		    c->user));
	if (!s->may_become)
		return (err_set(err, ERR_CONFIG, "connector \"%s\": only a "
		    "supervisor that is started by root can run it as user "
		    "\"%s\"", c->name, c->user));
	u->uid = pw->pw_uid;
	u->gid = pw->pw_gid;
	u->name = xstrdup(pw->pw_name);
	u->home = xstrdup(pw->pw_dir);
	u->ngroups = 0;
	(void)getgrouplist(u->name, u->gid, NULL, &u->ngroups);
	u->groups = xcalloc((size_t)u->ngroups + 1, sizeof(*u->groups));
	if (getgrouplist(u->name, u->gid, u->groups, &u->ngroups) == -1)
		return (err_set(err, ERR_SYSTEM, "connector \"%s\": cannot "
		    "find the groups of user \"%s\"", c->name, c->user));
	return (0);
}

void
place_user_free(struct user *u)
{
	free(u->name);
	free(u->home);
	free(u->groups);
	memset(u, 0, sizeof(*u));
}

int
place_become(const struct user *u)
{
	if (set_rights(RIGHTS_ALL, RIGHTS_ALL) == -1 ||
	    setgroups((size_t)u->ngroups, u->groups) == -1 ||
	    setresgid(u->gid, u->gid, u->gid) == -1 ||
	    setresuid(u->uid, u->uid, u->uid) == -1)
		return (-1);
	return (set_rights(0, 0));
}

int
place_state(struct supervisor *s, struct err *err)
{
	const struct conf_app *conf = &s->conf;
	struct passwd *pw = NULL;
	struct owner o = { false, 0, 0 };

	if (geteuid() == 0) {
		if (find_user(conf, &pw, err) == -1)
			return (-1);
		o.change = true;
		o.uid = pw->pw_uid;
		o.gid = pw->pw_gid;
	}
	if (make_dir(conf->state_directory, &o, err) == -1)
		return (-1);
	if (conf->runtime_directory[0] != '\0' &&
	    make_dir(conf->runtime_directory, &o, err) == -1)
		return (-1);
	if (pw != NULL && become(s, pw, err) == -1)
		return (-1);
	if (access(conf->state_directory, R_OK | W_OK | X_OK) == -1) {
		if (errno == EROFS)
			return (err_sys(err, ERR_STORAGE, "state-directory "
			    "%s", conf->state_directory));
		return (err_sys(err, ERR_CONFIG, "state-directory %s cannot "
		    "be used by user id %u", conf->state_directory,
		    (unsigned int)geteuid()));
	}
	return (0);
}

int
place_lock(struct supervisor *s, struct err *err)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	char *path = xasprintf("%s/lock", s->conf.state_directory);
	struct stat st;
	int r = 0;

	s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (s->lock_fd == -1 || fstat(s->lock_fd, &st) == -1)
		r = err_sys(err, errno == EACCES ? ERR_CONFIG : ERR_STORAGE,
		    "cannot open %s", path);
	else if (fcntl(s->lock_fd, F_SETLK, &l) == -1) {
		if (errno != EACCES && errno != EAGAIN)
			r = err_sys(err, ERR_STORAGE, "cannot lock %s", path);
		else {
			l.l_pid = 0;
			(void)fcntl(s->lock_fd, F_GETLK, &l);
			r = err_set(err, ERR_CONFIG, "state-directory %s is "
			    "in use by another supervisor pid=%d",
			    s->conf.state_directory, (int)l.l_pid);
		}
	} else
		(void)snprintf(s->instance, sizeof(s->instance), "%" PRIx64
		    ".%" PRIx64, (uint64_t)st.st_dev, (uint64_t)st.st_ino);
	free(path);
	return (r);
}

/* --- the runtime directory ----------------------------------------------- */

static bool
is_tmpfs(const char *path)
{
	struct statfs st;

	return (statfs(path, &st) == 0 && (st.f_type == TMPFS_MAGIC ||
	    st.f_type == RAMFS_MAGIC));
}

/* A private directory of ours; never somebody else's link or directory. */
static int
own_dir(const char *path, struct err *err)
{
	struct owner o = { false, 0, 0 };
	struct stat st;

	if (make_dir(path, &o, err) == -1)
		return (-1);
	if (lstat(path, &st) == -1)
		return (err_sys(err, ERR_STORAGE, "%s", path));
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid())
		return (err_set(err, ERR_CONFIG, "runtime-directory %s must "
		    "be a directory that belongs to user id %u", path,
		    (unsigned int)geteuid()));
	if ((st.st_mode & 077) != 0 && chmod(path, 0700) == -1)
		return (err_sys(err, ERR_CONFIG, "cannot make %s private",
		    path));
	return (0);
}

/* The application's name as a file name. */
static char *
file_name(const char *app)
{
	char *name = xstrdup(app), *p;

	for (p = name; *p != '\0'; p++)
		if (!isalnum((unsigned char)*p) && *p != '-' && *p != '_')
			*p = '_';
	return (name);
}

static char *
systemd_dir(const char *name)
{
	const char *given = getenv("RUNTIME_DIRECTORY");
	char *base, *path;

	if (given != NULL && given[0] == '/')
		base = xstrndup(given, strcspn(given, ":"));
	else
		base = xstrdup("/run/wallaroo");
	path = xasprintf("%s/%s", base, name);
	if (access(base, W_OK | X_OK) == -1 || !is_tmpfs(base)) {
		free(path);
		path = NULL;
	}
	free(base);
	return (path);
}

static char *
shm_dir(const struct supervisor *s, const char *name)
{
	const char *state = s->conf.state_directory;
	struct err err;
	char *base, *path;

	if (!is_tmpfs("/dev/shm"))
		return (NULL);
	base = xasprintf("/dev/shm/wallaroo-%u", (unsigned int)geteuid());
	if (own_dir(base, &err) == -1) {
		log_warn("%s", err.text);
		free(base);
		return (NULL);
	}
	path = xasprintf("%s/%s-%08x", base, name, (unsigned int)
	    (part_hash(msg_cstr(state)) >> 32));
	free(base);
	return (path);
}

static char *
choose(const struct supervisor *s)
{
	bool disk = s->conf.durability == CONF_MACHINE;
	char *name, *path;

	if (s->conf.runtime_directory[0] != '\0')
		return (xstrdup(s->conf.runtime_directory));
	if (disk)
		return (xasprintf("%s/run", s->conf.state_directory));
	if (s->catalog.run_dir[0] != '\0' &&
	    access(s->catalog.run_dir, W_OK | X_OK) == 0)
		return (xstrdup(s->catalog.run_dir));
	name = file_name(s->conf.name);
	if ((path = systemd_dir(name)) == NULL &&
	    (path = shm_dir(s, name)) == NULL)
		path = xasprintf("%s/run", s->conf.state_directory);
	free(name);
	return (path);
}

int
place_runtime(struct supervisor *s, struct err *err)
{
	const char *before = s->catalog.run_dir;

	s->run_dir = choose(s);
	if (own_dir(s->run_dir, err) == -1)
		return (-1);
	if (s->conf.durability == CONF_MACHINE && is_tmpfs(s->run_dir))
		return (err_set(err, ERR_CONFIG, "runtime-directory %s is on "
		    "a tmpfs, which does not survive a power loss: with "
		    "durability = machine it must be on a disk", s->run_dir));
	if (s->conf.durability == CONF_PROCESS && !is_tmpfs(s->run_dir))
		log_warn("the journal lies on disk, which is slower: %s is "
		    "not on a tmpfs", s->run_dir);
	if (!s->catalog.clean && before[0] != '\0' &&
	    strcmp(before, s->run_dir) != 0)
		log_warn("runtime-directory was %s and is %s now; the last "
		    "run was not stopped cleanly and its journals are there",
		    before, s->run_dir);
	return (catalog_run_dir(&s->catalog, s->run_dir, err));
}

/* --- nothing of the state is to be left ---------------------------------- */

static void
remove_workers_files(const char *path)
{
	struct dirent *d;
	DIR *dir;

	if ((dir = opendir(path)) == NULL) {
		log_warn("cannot look for files in %s: %s", path,
		    strerror(errno));
		return;
	}
	while ((d = readdir(dir)) != NULL)
		if ((strncmp(d->d_name, "worker-", 7) == 0 ||
		    strcmp(d->d_name, "workers.pids") == 0) &&
		    unlinkat(dirfd(dir), d->d_name, 0) == -1)
			log_warn("cannot remove %s/%s: %s", path, d->d_name,
			    strerror(errno));
	(void)closedir(dir);
}

/*
 * The state directory of machida3 is its own, and gone at once for who starts
 * the same command again: a lock in it that somebody waits for is then one of
 * a directory that nobody finds.
 */
void
place_forget(struct supervisor *s)
{
	static const char *const names[] = { "catalog.sqlite",
	    "catalog.sqlite-journal", "machida3.conf", "control.sock",
	    "dead-letters.jsonl", "lock" };
	char *gone, *path;
	size_t i;

	remove_workers_files(s->run_dir);
	gone = xasprintf("%s.removed-%d", s->conf.state_directory,
	    (int)getpid());
	if (rmdir(s->run_dir) == -1 && errno != ENOENT)
		log_warn("cannot remove %s: %s", s->run_dir, strerror(errno));
	if (rename(s->conf.state_directory, gone) == -1) {
		log_warn("cannot remove %s: %s", s->conf.state_directory,
		    strerror(errno));
		free(gone);
		return;
	}
	remove_workers_files(gone);
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		path = xasprintf("%s/%s", gone, names[i]);
		if (unlink(path) == -1 && errno != ENOENT)
			log_warn("cannot remove %s: %s", path,
			    strerror(errno));
		free(path);
	}
	if (rmdir(gone) == -1)
		log_warn("cannot remove %s: %s", gone, strerror(errno));
	free(gone);
}

void
place_discard(struct supervisor *s)
{
	remove_workers_files(s->conf.state_directory);
	remove_workers_files(s->run_dir);
}
