/*
 * What is not simulated by its system calls but replaced: the clock, the log,
 * user code's determinism, and the supervisor's dealings with its machine
 * (processes, directories, catalog, systemd).
 */
#include <stdarg.h>
#include <stdio.h>

#define SIM_KERNEL
#define WALLAROO_FAULTS
#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "supervisor/supervisor.h"
#include "tests/sim/plan.h"
#include "tests/sim/sim.h"
#include "tests/sim/sim_sys.h"
#include "worker/determ.h"
#include "worker/worker.h"

/* --- clock --------------------------------------------------------------- */

uint64_t
clock_mono_ns(void)
{
	return (now_ns);
}

/* It jumps now and then, also back. */
uint64_t
clock_wall_ns(void)
{
	return (1700000000 * SEC + now_ns + plan.wall_skew);
}

/* No clock of a journal is later. */
uint64_t
world_latest_ns(void)
{
	return (1700000000 * SEC + now_ns + plan.most_skew);
}

void
clock_random(void *p, unsigned int n)
{
	uint8_t *to = p;
	unsigned int i;

	for (i = 0; i < n; i++)
		to[i] = (uint8_t)rng_next(&plan.sched);
}

int
clock_boot_id(uint8_t id[16], struct err *err)
{
	(void)err;
	memset(id, 0, 16);
	id[0] = (uint8_t)(plan.boot + 1);
	return (0);
}

/* --- log: into the trace ------------------------------------------------- */

static void __attribute__((format(printf, 2, 0)))
log_va(int priority, const char *fmt, va_list ap)
{
	char text[LOG_LINE];

	if (!tracing)
		return;
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	trace_at("log <%d> %s", priority, text);
}

#define LOG_VA(priority)						\
	va_list ap;							\
									\
	va_start(ap, fmt);						\
	log_va(priority, fmt, ap);					\
	va_end(ap)

void
log_at(int priority, const char *fmt, ...)
{
	LOG_VA(priority);
}

void
log_error(const char *fmt, ...)
{
	LOG_VA(LOG_ERR);
}

void
log_warn(const char *fmt, ...)
{
	LOG_VA(LOG_WARNING);
}

void
log_info(const char *fmt, ...)
{
	LOG_VA(LOG_INFO);
}

void
log_debug(const char *fmt, ...)
{
	LOG_VA(LOG_DEBUG);
}

/* To standard error. */
int
sim_fprintf(FILE *f, const char *fmt, ...)
{
	LOG_VA(LOG_ERR);
	(void)f;
	return (0);
}

void
log_init(const char *role, int level)
{
	(void)role;
	(void)level;
}

void
log_level(int level)
{
	(void)level;
}

int
log_allowed(struct log_rate *rate)
{
	(void)rate;
	return (tracing);
}

void
log_flush(int now)
{
	(void)now;
}

/* --- determinism of user code: the test host asks for neither ------------- */

__thread struct determ determ;

int
respread(struct worker *w, struct err *err)
{
	(void)w;
	return (err_set(err, ERR_CONFIG, "the number of workers never "
	    "changes in the simulation"));
}

/* --- what only real processes have ---------------------------------------- */

int
replay_copy(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	return (1);
}

int
replay_run(struct worker *w, int argc, char **argv)
{
	(void)w;
	(void)argc;
	(void)argv;
	return (1);
}

int
store_damaged(const char *path, const char *what, struct err *err)
{
	return (err_set(err, ERR_CORRUPT, "%s is damaged (%s)", path, what));
}

void
children_guard(struct worker *w)
{
	(void)w;
}

void
fault_worker(uint32_t n)
{
	(void)n;
}

int64_t
fault_clock_ns(void)
{
	return (0);
}

bool
fault_listed(int argc, char *const argv[])
{
	(void)argc;
	(void)argv;
	return (false);
}

/* --- the catalog: each change is whole and on disk when it returns -------- */

static uint64_t losses;			/* that were accepted */
static struct {
	struct catalog	c;		/* pointers are not used */
	struct bytes	topology;
	bool		exists;
} disk;

static int
commit(struct catalog *c)
{
	point(PT_catalog_commit, false);
	disk.c = *c;
	disk.exists = true;
	point(PT_catalog_commit, true);
	return (0);
}

int
catalog_open(struct catalog *c, const char *dir, const char *app,
    struct err *err)
{
	(void)app;
	(void)err;
	memset(c, 0, sizeof(*c));
	if (disk.exists)
		*c = disk.c;
	else {
		c->start_time_ns = clock_wall_ns();
		c->clean = true;
	}
	c->path = xasprintf("%s/catalog", dir);
	c->run_dir = xstrdup("");
	memset(&c->topology, 0, sizeof(c->topology));
	buf_add(&c->topology, disk.topology.p, disk.topology.len);
	c->epoch++;
	return (commit(c));
}

void
catalog_close(struct catalog *c)
{
	memset(c, 0, sizeof(*c));
}

int
catalog_run_dir(struct catalog *c, const char *dir, struct err *err)
{
	(void)c;
	(void)dir;
	(void)err;
	return (0);
}

int
catalog_begin(struct catalog *c, uint32_t workers, uint32_t partitions,
    struct err *err)
{
	(void)err;
	c->workers = workers;
	c->partitions = partitions;
	c->clean = false;
	return (commit(c));
}

int
catalog_opened(struct catalog *c, struct err *err)
{
	(void)err;
	c->opened = c->epoch;
	return (commit(c));
}

int
catalog_topology(struct catalog *c, struct slice topology, struct err *err)
{
	(void)err;
	buf_clear(&c->topology);
	buf_add(&c->topology, topology.data, topology.len);
	bytes_skip(&disk.topology, disk.topology.len);
	bytes_put(&disk.topology, topology.data, topology.len);
	return (commit(c));
}

int
catalog_clean(struct catalog *c, struct err *err)
{
	(void)err;
	c->clean = true;
	return (commit(c));
}

int
catalog_unused(struct catalog *c, struct err *err)
{
	(void)err;
	c->epoch--;
	return (commit(c));
}

int
catalog_spread(struct catalog *c, uint32_t workers, struct err *err)
{
	(void)workers;
	(void)err;
	c->generation++;
	return (commit(c));
}

int
catalog_loss(struct catalog *c, uint32_t worker, const char *text,
    struct err *err)
{
	(void)c;
	(void)err;
	trace("loss of worker %u: %s", worker, text);
	losses++;
	return (0);
}

uint64_t
world_losses(void)
{
	return (losses);
}

int
catalog_losses(struct catalog *c, void (*each)(const struct loss *, void *),
    void *arg, struct err *err)
{
	(void)c;
	(void)each;
	(void)arg;
	(void)err;
	return (0);
}

int
catalog_rename(struct catalog *c, const char *dir, const struct options *o,
    struct slice topology, struct err *err)
{
	(void)c;
	(void)dir;
	(void)o;
	(void)topology;
	return (err_set(err, ERR_CONFIG, "nothing is renamed here"));
}

int
catalog_finish_rename(struct catalog *c, const char *dir, struct err *err)
{
	(void)c;
	(void)dir;
	(void)err;
	return (0);
}

void
catalog_remove_old(const struct catalog *c, const char *dir,
    uint32_t workers, uint64_t generation)
{
	(void)c;
	(void)dir;
	(void)workers;
	(void)generation;
}

int
catalog_compatible(const struct topo *old, const struct topo *now,
    const struct options *o, struct err *err)
{
	(void)old;
	(void)now;
	(void)o;
	(void)err;
	return (0);
}

int
catalog_discard(struct catalog *c, struct err *err)
{
	(void)c;
	return (err_set(err, ERR_CONFIG, "nobody discards state here"));
}

/* Nobody puts dead letters back. */
int
dlq_open(struct catalog *c, struct err *err)
{
	(void)c;
	(void)err;
	return (0);
}

int
dlq_put_back(struct supervisor *s, struct slice id, struct slice text,
    enum dlq_state *state, uint64_t *seq, struct err *err)
{
	(void)s;
	(void)id;
	(void)text;
	(void)state;
	(void)seq;
	return (err_set(err, ERR_CONFIG, "there are no dead letters"));
}

bool
dlq_pending(const struct catalog *c)
{
	(void)c;
	return (false);
}

void
dlq_resend(struct child *c)
{
	(void)c;
}

void
dlq_done(struct child *c, const struct msg_putback_done *m)
{
	(void)c;
	(void)m;
}

int
dlq_list(const struct catalog *c, struct buf *b, struct err *err)
{
	(void)c;
	(void)b;
	return (err_set(err, ERR_CONFIG, "there are no dead letters"));
}

void
place_discard(struct supervisor *s)
{
	(void)s;
}

void
place_forget(struct supervisor *s)
{
	(void)s;
}

bool
world_clean(void)
{
	return (disk.c.clean);
}

/* --- place --------------------------------------------------------------- */

int
place_limits(const struct conf_app *conf, struct err *err)
{
	(void)conf;
	(void)err;
	return (0);
}

int
place_state(struct supervisor *s, struct err *err)
{
	(void)s;
	(void)err;
	return (0);
}

int
place_lock(struct supervisor *s, struct err *err)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	s->lock_fd = sim_open("/state/lock", O_RDWR | O_CREAT);
	if (s->lock_fd == -1 || sim_fcntl(s->lock_fd, F_SETLK, &l) == -1)
		return (err_sys(err, ERR_STORAGE, "/state/lock"));
	(void)snprintf(s->instance, sizeof(s->instance), "sim");
	return (0);
}

int
place_runtime(struct supervisor *s, struct err *err)
{
	(void)err;
	s->run_dir = xstrdup("/run");
	return (0);
}

uint64_t
place_fds(uint64_t workers, uint64_t tcp_sources, uint64_t tcp_sinks,
    uint64_t connections)
{
	(void)workers;
	(void)tcp_sources;
	(void)tcp_sinks;
	(void)connections;
	return (0);
}

int
place_check_fds(struct supervisor *s, struct err *err)
{
	(void)s;
	(void)err;
	return (0);
}

bool
tcpcheck_exact(void)
{
	return (true);
}

/* --- processes ----------------------------------------------------------- */

static unsigned int lives[WORKERS];

static int
worker_entry(void)
{
	static char name[] = "wallaroo-worker";
	char *argv[] = { name, NULL };

	return (sim_worker_main(1, argv));
}

char *
spawn_program(bool trust_environment)
{
	(void)trust_environment;
	return (xstrdup("/wallaroo-worker"));
}

int
spawn_stats(struct child *c, struct err *err)
{
	c->stats_fd = sim_memfd_create("stats", 0);
	do
		errno = c->stats_fd == -1 ? EMFILE :
		    sim_posix_fallocate(c->stats_fd, 0, STATS_SIZE);
	while (errno == EINTR);
	if (errno != 0)
		return (err_sys(err, ERR_SYSTEM, "cannot make a stats page"));
	c->stats = sim_mmap(NULL, STATS_SIZE, PROT_READ | PROT_WRITE,
	    MAP_SHARED, c->stats_fd, 0);
	c->stats->magic = STATS_MAGIC;
	c->stats->worker = c->number;
	return (0);
}

char *
spawn_stack(const struct child *c, uint64_t from)
{
	(void)c;
	(void)from;
	return (NULL);			/* there is no interpreter */
}

void
spawn_stack_forget(const struct child *c)
{
	(void)c;
}

int
spawn_worker(struct child *c, struct err *err)
{
	struct supervisor *s = c->s;
	struct file *channel;
	struct proc *p;
	int fd[2], i;

	if (sim_socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fd) == -1)
		return (err_sys(err, ERR_SYSTEM, "socketpair"));
	point(PT_fork, false);
	c->mark = NULL;
	c->serial = ++s->serial;
	p = sometimes(plan.no_fork) ? NULL : proc_new(PROC_WORKER,
	    worker_entry, current->pid);
	if (p != NULL) {
		channel = fd_get(fd[1]);
		file_ref(channel);
		for (i = 0; i < WORKER_CHANNEL; i++)
			p->fd[i] = file_new(FILE_NULL);
		p->fd[WORKER_CHANNEL] = channel;
		p->number = c->number;
		p->numbered = c->role == CHILD_WORKER;
		p->tool = !p->numbered;
		p->lives = p->tool ? 0 : lives[c->number]++;
	}
	(void)sim_close(fd[1]);
	if (p == NULL) {
		(void)sim_close(fd[0]);
		errno = EAGAIN;
		return (err_sys(err, ERR_SYSTEM, "fork"));
	}
	c->pid = p->pid;
	(void)sim_fcntl(fd[0], F_SETFL, O_NONBLOCK);
	channel_open(c, fd[0]);
	point(PT_fork, true);
	return (0);
}

/* Something that it started may live a little longer. */
bool
spawn_gone(struct child *c)
{
	(void)c;
	return (!sometimes(3));
}

bool
spawn_stopped(pid_t pid)
{
	const struct proc *p = proc_find(pid);

	return (p != NULL && p->stopped_until > now_ns);
}

int
cgroup_join(struct child *c, pid_t pid, struct err *err)
{
	struct proc *p = proc_find(pid);

	/* That is where a spare becomes a worker. */
	err->code = ERR_NONE;
	p->number = c->number;
	p->numbered = true;
	p->tool = false;
	p->lives = lives[c->number]++;
	return (0);
}

int
cgroup_open(struct child *c, struct err *err)
{
	(void)c;
	err->code = ERR_NONE;
	return (-1);			/* none is asked for */
}

void
cgroup_check(const struct child *c)
{
	(void)c;
}

uint64_t
cgroup_oom_kills(const struct child *c)
{
	(void)c;
	return (0);
}

void
cgroup_close(struct child *c)
{
	(void)c;
}

/* --- connectors: there are none ------------------------------------------ */

int
connectors_init(struct supervisor *s, struct err *err)
{
	(void)s;
	(void)err;
	return (0);
}

void
connectors_fini(struct supervisor *s)
{
	(void)s;
}

void
connectors_start(struct supervisor *s)
{
	(void)s;
}

void
connectors_stop(struct supervisor *s)
{
	(void)s;
}

bool
connectors_left(const struct supervisor *s)
{
	(void)s;
	return (false);
}

void
connectors_status(const struct supervisor *s, struct buf *b)
{
	(void)s;
	(void)b;
}

int
connector_restart(struct supervisor *s, struct slice name, pid_t *pid,
    struct err *err)
{
	(void)s;
	(void)name;
	(void)pid;
	return (err_set(err, ERR_REFUSED, "there is no such worker"));
}

/* --- what another start finds -------------------------------------------- */

void
spawn_record(struct supervisor *s)
{
	(void)s;
}

/* Where it cannot see them (another container with the same directory), the
 * lock on each worker's files is what is left. */
int
spawn_leftovers(struct supervisor *s, struct err *err)
{
	unsigned int i;

	(void)s;
	(void)err;
	if (plan.blind)
		return (0);
	for (i = 0; i < PROCS; i++)
		if (procs[i].life == PROC_LIVE && procs[i].kind ==
		    PROC_WORKER && procs[i].parent != current->pid)
			proc_kill(&procs[i], SIGKILL);
	return (0);
}

int
usock_listen(const char *path, struct err *err)
{
	(void)path;
	(void)err;
	return (fd_install(current, file_new(FILE_CTL), 0));
}

int
usock_connect(const char *path, struct err *err)
{
	return (err_set(err, ERR_SYSTEM, "%s: nobody asks here", path));
}

char *
usock_path(const struct conf_app *conf)
{
	(void)conf;
	return (xstrdup("/state/control.sock"));
}

/* --- systemd: readiness and the descriptor store -------------------------- */

static struct {
	char		 name[80];
	struct file	*file;
} store[128];
static size_t nstore;

static const char *
field(const char *text, const char *name)
{
	const char *at = strstr(text, name);

	return (at == NULL ? NULL : at + strlen(name));
}

void
notify_message(const uint8_t *data, size_t len, struct file *passed)
{
	char text[256], name[80] = "";
	const char *at;
	size_t i;

	if (len >= sizeof(text))
		return;
	memcpy(text, data, len);
	text[len] = '\0';
	if ((at = field(text, "FDNAME=")) != NULL)
		(void)snprintf(name, sizeof(name), "%.*s",
		    (int)strcspn(at, "\n"), at);
	if (strncmp(text, "FDSTORE=1", 9) == 0 && passed != NULL &&
	    nstore < sizeof(store) / sizeof(store[0])) {
		(void)snprintf(store[nstore].name, sizeof(store[0].name),
		    "%s", name);
		file_ref(passed);
		store[nstore++].file = passed;
	} else if (strncmp(text, "FDSTOREREMOVE=1", 15) == 0) {
		for (i = 0; i < nstore; )
			if (strcmp(store[i].name, name) == 0) {
				file_unref(store[i].file);
				store[i] = store[--nstore];
			} else
				i++;
	} else if (strncmp(text, "READY=1", 7) == 0)
		current->phase = PHASE_RUNNING;
	else if (strncmp(text, "STOPPING=1", 10) == 0)
		current->phase = PHASE_DRAINING;
}

/* Start a supervisor, with what systemd keeps for it. */
struct proc *
world_start(void)
{
	static char names[128 * 80], env_names[sizeof(names) + 32];
	static char count[32], pid[32], notify[] = "NOTIFY_SOCKET=@sim";
	static char *env[5];
	struct proc *p = proc_new(PROC_SUPERVISOR, supervisor_main, 1);
	size_t i, at = 0;

	if (p == NULL)
		return (NULL);
	names[0] = '\0';
	for (i = 0; i < 3; i++)
		p->fd[i] = file_new(FILE_NULL);
	for (i = 0; i < nstore; i++) {
		file_ref(store[i].file);
		p->fd[3 + i] = store[i].file;
		at += (size_t)snprintf(names + at, sizeof(names) - at,
		    "%s%s", i > 0 ? ":" : "", store[i].name);
	}
	(void)snprintf(count, sizeof(count), "LISTEN_FDS=%zu", nstore);
	(void)snprintf(pid, sizeof(pid), "LISTEN_PID=%d", p->pid);
	(void)snprintf(env_names, sizeof(env_names), "LISTEN_FDNAMES=%s",
	    names);
	env[0] = notify;
	env[1] = count;
	env[2] = pid;
	env[3] = env_names;
	env[4] = NULL;
	p->env = env;
	return (p);
}

/* Its clock may have been wrong, and another disk may be the slow one. */
void
world_power_loss(void)
{
	plan.lagging = (uint32_t)rng_below(&plan.sched, 2 * plan.workers);
	world_forget_store();
	plan.boot++;
	plan.wall_skew = rng_below(&plan.sched, 2 * SEC) - SEC;
	if ((int64_t)plan.wall_skew > (int64_t)plan.most_skew)
		plan.most_skew = plan.wall_skew;
}

void
world_reset(void)
{
	bytes_free(&disk.topology);
	memset(&disk, 0, sizeof(disk));
	nstore = 0;
	losses = 0;
	memset(lives, 0, sizeof(lives));
}

/* A clean stop: systemd keeps nothing of a service that has ended. */
void
world_forget_store(void)
{
	while (nstore > 0)
		file_unref(store[--nstore].file);
}

int
supervisor_main(void)
{
	struct supervisor *s = xcalloc(1, sizeof(*s));

	plan_conf(&s->conf);
	s->opt.accept_loss = actors_accept_loss();
	return (supervisor_run(s));
}
