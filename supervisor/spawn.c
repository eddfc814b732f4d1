/*
 * Processes: fork and exec of workers, and the certainty that one of them is
 * gone with all its descendants before another takes its place.
 *
 * Each worker is leader of its own session and process group.  This process
 * is subreaper, so whatever a worker leaves behind becomes its child; what
 * left the group is known by its session or by a mark in its environment.
 */
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "supervisor/supervisor.h"

#define WORKER_CHANNEL	3
#define MARK		"WALLAROO_PROCESS="
#define PROC_FILE_MAX	(1024 * 1024)
#define LEFTOVER_MS	5000
#define STACK_MOST	(64 * 1024)

extern char **environ;

int
spawn_stats(struct child *c, struct err *err)
{
	void *p;

	c->stats_fd = memfd_create("wallaroo-stats", MFD_CLOEXEC);
	if (c->stats_fd == -1 || ftruncate(c->stats_fd, STATS_SIZE) == -1 ||
	    fcntl(c->stats_fd, F_SETFL, O_APPEND) == -1)
		return (err_sys(err, ERR_SYSTEM, "cannot make a stats page"));
	p = mmap(NULL, STATS_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
	    c->stats_fd, 0);
	if (p == MAP_FAILED)
		return (err_sys(err, ERR_SYSTEM, "cannot map a stats page"));
	c->stats = p;
	c->stats->magic = STATS_MAGIC;
	c->stats->worker = c->number;
	return (0);
}

/* Behind the page a worker's interpreter writes its stack when it dies by a
 * fault, or gets SIGUSR2. */
char *
spawn_stack(const struct child *c, uint64_t from)
{
	struct stat st;
	char *text;
	ssize_t n;

	if (c->stats_fd == -1 || fstat(c->stats_fd, &st) == -1 ||
	    (uint64_t)st.st_size <= STATS_SIZE + from)
		return (NULL);
	text = xcalloc(1, STACK_MOST + 1);
	n = pread(c->stats_fd, text, STACK_MOST, (off_t)(STATS_SIZE + from));
	text[n > 0 ? n : 0] = '\0';
	return (text);
}

void
spawn_stack_forget(const struct child *c)
{
	if (c->stats_fd != -1)
		(void)!ftruncate(c->stats_fd, STATS_SIZE);
}

/* --- fork and exec ------------------------------------------------------- */

char *
spawn_mark(const struct supervisor *s, uint64_t serial)
{
	return (xasprintf(MARK "%s.%" PRIu64 ".%" PRIu64, s->instance,
	    s->catalog.epoch, serial));
}

static bool
is_among(const char *line, char *const *variables, size_t n)
{
	size_t len = strcspn(line, "=") + 1, i;

	for (i = 0; i < n; i++)
		if (strncmp(line, variables[i], len) == 0)
			return (true);
	return (false);
}

char **
spawn_environment(char *const *variables, size_t n)
{
	char **env;
	size_t i, k = 0;

	for (i = 0; environ[i] != NULL; i++)
		;
	env = xcalloc(i + n + 1, sizeof(*env));
	for (i = 0; environ[i] != NULL; i++)
		if (!is_among(environ[i], variables, n))
			env[k++] = environ[i];
	for (i = 0; i < n; i++)
		env[k++] = variables[i];
	return (env);
}

/* In the child: only what is allowed between fork and exec. */
static void __attribute__((noreturn))
become(const struct supervisor *s, char **env, int channel, int null,
    int cgroup)
{
	char *const argv[] = { (char *)(uintptr_t)"wallaroo-worker", NULL };
	static const char text[] = "wallaroo-worker cannot be executed\n";
	sigset_t none;

	(void)setsid();
	if (cgroup != -1 && write(cgroup, "0", 1) != 1)
		_exit(EXIT_TEMPORARY);
	(void)signal(SIGPIPE, SIG_DFL);
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	if (dup2(null, STDIN_FILENO) == -1 ||
	    (!machida_is(s) && dup2(STDERR_FILENO, STDOUT_FILENO) == -1))
		_exit(EXIT_TEMPORARY);
	if (channel == WORKER_CHANNEL)
		(void)fcntl(channel, F_SETFD, 0);
	else if (dup2(channel, WORKER_CHANNEL) == -1)
		_exit(EXIT_TEMPORARY);
	(void)close_range(WORKER_CHANNEL + 1, UINT_MAX, 0);
	execve(s->program, argv, env);
	(void)!write(STDERR_FILENO, text, sizeof(text) - 1);
	_exit(127);
}

static int
no_spawn(int cgroup, struct err *err, const char *what)
{
	(void)err_sys(err, ERR_SYSTEM, "%s", what);
	if (cgroup != -1)
		close(cgroup);
	return (-1);
}

int
spawn_worker(struct child *c, struct err *err)
{
	struct supervisor *s = c->s;
	int fd[2], null, cgroup, room = 2 * MSG_MAX_CONTROL;
	char **env;
	pid_t pid;

	cgroup = cgroup_open(c, err);
	if (cgroup == -1 && err->code != ERR_NONE)
		return (-1);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fd) == -1)
		return (no_spawn(cgroup, err, "socketpair"));
	/* The largest message must fit. */
	(void)setsockopt(fd[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	(void)setsockopt(fd[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (null == -1) {
		close(fd[0]);
		close(fd[1]);
		return (no_spawn(cgroup, err, "cannot open /dev/null"));
	}
	free(c->mark);
	c->serial = ++s->serial;
	c->mark = spawn_mark(s, c->serial);
	env = spawn_environment(&c->mark, 1);
	FAULT_POINT(spawn_before);
	pid = fork();
	if (pid == 0)
		become(s, env, fd[1], null, cgroup);
	free(env);
	close(null);
	close(fd[1]);
	if (pid == -1) {
		close(fd[0]);
		return (no_spawn(cgroup, err, "fork"));
	}
	FAULT_POINT(spawn_after);
	if (cgroup != -1)
		close(cgroup);
	c->pid = pid;
	(void)fcntl(fd[0], F_SETFL, O_NONBLOCK);
	channel_open(c, fd[0]);
	return (0);
}

/* --- other programs: connectors ------------------------------------------ */

/* In the child, as above.  The user's rights first: they take the signal at
 * our death away. */
static void __attribute__((noreturn))
become_process(const struct process *p, int null, pid_t parent)
{
	static const char text[] = " cannot be executed\n";
	sigset_t none;

	(void)setsid();
	if (dup2(null, STDIN_FILENO) == -1 ||
	    dup2(p->output, STDOUT_FILENO) == -1 ||
	    dup2(p->output, STDERR_FILENO) == -1 ||
	    (p->cgroup != -1 && write(p->cgroup, "0", 1) != 1) ||
	    (p->user != NULL && place_become(p->user) == -1) ||
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == -1 ||
	    prctl(PR_SET_PDEATHSIG, SIGKILL) == -1 || getppid() != parent)
		_exit(EXIT_TEMPORARY);
	(void)signal(SIGPIPE, SIG_DFL);
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)close_range(STDERR_FILENO + 1, UINT_MAX, 0);
	(void)execvpe(p->argv[0], p->argv, p->env);
	(void)!write(STDERR_FILENO, p->argv[0], strlen(p->argv[0]));
	(void)!write(STDERR_FILENO, text, sizeof(text) - 1);
	_exit(127);
}

pid_t
spawn_process(const struct process *p, struct err *err)
{
	pid_t parent = getpid(), pid;
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	if (null == -1)
		return (err_sys(err, ERR_SYSTEM, "cannot open /dev/null"));
	pid = fork();
	if (pid == 0)
		become_process(p, null, parent);
	if (pid == -1)
		(void)err_sys(err, ERR_SYSTEM, "fork");
	close(null);
	return (pid);
}

/* --- what /proc knows ---------------------------------------------------- */

static int
read_proc(struct buf *b, const char *path)
{
	ssize_t n;
	int fd;

	buf_clear(b);
	if ((fd = open(path, O_RDONLY | O_CLOEXEC)) == -1)
		return (-1);
	while (b->len < PROC_FILE_MAX) {
		n = read(fd, buf_reserve(b, 4096), 4096);
		if (n == -1 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		b->len += (size_t)n;
	}
	close(fd);
	return (0);
}

int
spawn_parse_stat(const char *text, struct proc_stat *st)
{
	const char *p = strrchr(text, ')');
	int session;

	memset(st, 0, sizeof(*st));
	/* The name in parentheses may hold anything, also parentheses. */
	if (p == NULL || sscanf(p + 1, " %c %*d %*d %d %*d %*d %*u %*u %*u "
	    "%*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %" SCNu64, &st->state,
	    &session, &st->start) != 3)
		return (-1);
	st->session = session;
	return (0);
}

static int
read_stat(pid_t pid, struct proc_stat *st)
{
	struct buf b = { 0 };
	char path[64];
	int r = -1;

	(void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	if (read_proc(&b, path) == 0 && b.len > 0)
		r = spawn_parse_stat(buf_str(&b), st);
	buf_fini(&b);
	return (r);
}

bool
spawn_stopped(pid_t pid)
{
	struct proc_stat st;

	return (read_stat(pid, &st) == 0 && (st.state == 'T' ||
	    st.state == 't'));
}

/* Is there an environment string that begins with the mark? */
static bool
is_marked(pid_t pid, const char *mark, bool whole)
{
	struct buf b = { 0 };
	char path[64];
	size_t at, len = strlen(mark);
	bool found = false;

	(void)snprintf(path, sizeof(path), "/proc/%d/environ", (int)pid);
	if (read_proc(&b, path) == 0 && b.len > 0) {
		(void)buf_str(&b);
		for (at = 0; at < b.len && !found; at += strlen(
		    (const char *)b.data + at) + 1)
			found = strncmp((const char *)b.data + at, mark,
			    len) == 0 && (!whole || b.data[at + len] == '\0');
	}
	buf_fini(&b);
	return (found);
}

/* --- the end of a worker ------------------------------------------------- */

static bool
is_ours(const struct supervisor *s, pid_t pid)
{
	uint32_t i;

	if (s->tool.pid == pid)
		return (true);
	for (i = 0; i < s->n; i++)
		if (s->child[i].pid == pid)
			return (true);
	for (i = 0; i < s->nspares; i++)
		if (s->spare[i].pid == pid)
			return (true);
	return (connector_is(s, pid));
}

/* Orphans that became our children: true while there is one of this session
 * or with this mark. */
static bool
kill_strays(const struct supervisor *s, pid_t session, const char *mark)
{
	struct buf b = { 0 };
	struct proc_stat st;
	char path[64], *p, *end;
	bool left = false;
	long pid;

	(void)snprintf(path, sizeof(path), "/proc/self/task/%d/children",
	    (int)getpid());
	if (read_proc(&b, path) == -1) {
		buf_fini(&b);
		return (false);			/* an old kernel */
	}
	for (p = buf_str(&b); (pid = strtol(p, &end, 10)) > 0; p = end) {
		if (is_ours(s, (pid_t)pid) ||
		    read_stat((pid_t)pid, &st) == -1 || st.state == 'Z')
			continue;
		if (st.session != session && !is_marked((pid_t)pid, mark,
		    true))
			continue;
		(void)kill((pid_t)pid, SIGKILL);
		left = true;
	}
	buf_fini(&b);
	return (left);
}

bool
spawn_group_gone(const struct supervisor *s, pid_t pid, const char *mark)
{
	bool left;

	left = kill(-pid, SIGKILL) == 0 || errno != ESRCH;
	if (kill_strays(s, pid, mark))
		left = true;
	return (!left);
}

bool
spawn_gone(struct child *c)
{
	return (spawn_group_gone(c->s, c->pid, c->mark));
}

/* --- over the death of the supervisor ------------------------------------ */

static char *
record_path(const struct supervisor *s)
{
	return (xasprintf("%s/workers.pids", s->run_dir));
}

static void
record(FILE *f, pid_t pid)
{
	struct proc_stat st;

	if (pid != 0 && read_stat(pid, &st) == 0)
		(void)fprintf(f, "%d %" PRIu64 "\n", (int)pid, st.start);
}

void
spawn_record(struct supervisor *s)
{
	char *path = record_path(s), *tmp = xasprintf("%s.new", path);
	uint32_t i;
	FILE *f;

	FAULT_POINT(pids_write_before);
	if ((f = fopen(tmp, "we")) != NULL) {
		for (i = 0; i < s->n; i++)
			record(f, s->child[i].pid);
		for (i = 0; i < s->nspares; i++)
			record(f, s->spare[i].pid);
		for (i = 0; i < s->nconnectors; i++)
			record(f, s->connector[i].pid);
		if (fclose(f) == 0)
			(void)rename(tmp, path);
	}
	FAULT_POINT(pids_write_after);
	free(tmp);
	free(path);
}

bool
spawn_parse_record(const char *line, pid_t *pid, uint64_t *start)
{
	int n;

	if (sscanf(line, "%d %" SCNu64, &n, start) != 2 || n <= 1)
		return (false);
	*pid = n;
	return (true);
}

/* The recorded leaders, if they are still the same processes. */
static bool
kill_recorded(struct supervisor *s)
{
	char *path = record_path(s), line[128];
	struct proc_stat st;
	uint64_t start;
	bool left = false;
	pid_t pid;
	FILE *f;

	f = fopen(path, "re");
	free(path);
	if (f == NULL)
		return (false);
	while (fgets(line, sizeof(line), f) != NULL) {
		if (!spawn_parse_record(line, &pid, &start))
			continue;
		if (read_stat(pid, &st) == -1 || st.start != start ||
		    st.state == 'Z')
			continue;
		(void)kill(-pid, SIGKILL);
		(void)kill(pid, SIGKILL);
		left = true;
	}
	(void)fclose(f);
	return (left);
}

/* Every process with our mark, wherever it is. */
static bool
kill_marked(struct supervisor *s)
{
	char *mark = xasprintf(MARK "%s.", s->instance);
	struct dirent *e;
	struct proc_stat st;
	bool left = false;
	pid_t pid;
	DIR *d;

	if ((d = opendir("/proc")) == NULL) {
		free(mark);
		return (false);
	}
	while ((e = readdir(d)) != NULL) {
		if (!isdigit((unsigned char)e->d_name[0]))
			continue;
		pid = (pid_t)atoi(e->d_name);
		if (pid <= 1 || pid == getpid() || pid == getppid() ||
		    !is_marked(pid, mark, false) ||
		    read_stat(pid, &st) == -1 || st.state == 'Z')
			continue;
		(void)kill(pid, SIGKILL);
		left = true;
	}
	(void)closedir(d);
	free(mark);
	return (left);
}

int
spawn_leftovers(struct supervisor *s, struct err *err)
{
	uint64_t until = clock_mono_ns() + LEFTOVER_MS * 1000000ULL;
	bool said = false;

	while (kill_recorded(s) | kill_marked(s)) {
		if (!said)
			log_warn("processes of an earlier supervisor are "
			    "still there, killing them");
		said = true;
		if (clock_mono_ns() > until)
			return (err_set(err, ERR_SYSTEM, "processes of an "
			    "earlier supervisor do not die; two owners of "
			    "one state must not be"));
		(void)usleep(10000);
	}
	return (0);
}
