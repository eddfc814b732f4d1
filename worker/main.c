/*
 * wallaroo-worker: started by the supervisor with its channel on descriptor
 * 3; everything it needs to know comes in the first message.
 */
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/part.h"
#include "worker/mapped.h"
#include "worker/planted.h"
#include "worker/worker.h"

#define SPARE_LOOK_MS	2000	/* between looks at what was imported */

static struct worker worker;

static void
say_fatal(struct worker *w, int code, const char *text)
{
	struct msg_fatal m = { (uint32_t)code, msg_cstr(text) };
	struct buf b = { 0 };

	log_flush(1);
	log_error("%s", text);
	msg_put_fatal(&b, &m);
	control_send(w, &b);
	control_flush_blocking(w);
	buf_fini(&b);
}

void
worker_fatal(struct worker *w, int code, const char *fmt, ...)
{
	char text[ERR_TEXT + 1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	/* The application stops for good: receivers keep what they have, and
	 * the next start goes on behind it. */
	if (code == EXIT_PERMANENT && w->running && !w->finishing) {
		w->finishing = true;
		sink_finish(w);
	}
	say_fatal(w, code, text);
	_exit(code);
}

void
worker_fatal_err(struct worker *w, const struct err *err)
{
	worker_fatal(w, err->code == ERR_STORAGE || err->code == ERR_SYSTEM ?
	    EXIT_TEMPORARY : EXIT_PERMANENT, "%s", err->text);
}

/* --- start ------------------------------------------------------------- */

/* The first two messages: what is alike for all workers, and which one this
 * process is.  A spare waits between them. */
struct started {
	struct worker	*w;
	int		 fd;		/* stats page */
	uint32_t	 flags;		/* PREPARE_* */
	bool		 prepare, adopt;	/* has come */
};

static void
map_stats(struct worker *w, int fd)
{
	void *p = MAP_FAILED;

	if (w->stats != NULL)		/* of the spare that it was */
		(void)munmap(w->stats, STATS_SIZE);
	if (fd != -1)
		p = mmap(NULL, STATS_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
		    fd, 0);
	if (p == MAP_FAILED)
		worker_fatal(w, EXIT_TEMPORARY, "cannot map the stats page: "
		    "%s", strerror(errno));
	w->stats = p;
	(void)madvise(p, STATS_SIZE, MADV_DONTFORK);
	w->stats->magic = STATS_MAGIC;
	w->stats->worker = w->me;
	STAT_SET(w->stats, pid, (uint64_t)getpid());
}

static int
on_prepare(void *arg, const struct msg_prepare *m, struct err *err)
{
	struct started *s = arg;
	struct worker *w = s->w;

	s->flags = m->flags;
	w->start_time_ns = m->start_time_ns;
	if (conf_unpack(&w->conf, m->conf, err) == -1)
		return (-1);
	if (m->topology.len > 0 && topo_parse(&w->topo, m->topology, err) ==
	    -1)
		return (-1);
	w->durable = w->conf.durability != CONF_NONE;
	w->machine = w->conf.durability == CONF_MACHINE;
	w->after_checkpoint = w->conf.outputs == CONF_AFTER_CHECKPOINT;
	map_stats(w, s->fd);
	host_stack_fd = s->fd;		/* stacks go behind the page */
	s->prepare = true;
	return (0);
}

static int
on_adopt(void *arg, const struct msg_adopt *m, struct err *err)
{
	struct started *s = arg;
	struct worker *w = s->w;
	bool works = (m->flags & (START_DESCRIBE | START_RESPREAD)) == 0;

	(void)err;
	w->me = m->worker;
	fault_worker(w->me);
	if (works)
		FAULT_POINT(adopted_before);
	w->n = m->workers;
	w->epoch = m->epoch;
	w->generation = m->generation;
	w->flags = m->flags;
	w->run_dir = xstrndup((const char *)m->run_dir.data, m->run_dir.len);
	w->death = xstrndup((const char *)m->death.data, m->death.len);
	w->opened = m->opened;
	map_stats(w, s->fd);
	/* The interpreter goes on with the number that it has. */
	if (dup3(s->fd, host_stack_fd, O_CLOEXEC) == -1)
		worker_fatal(w, EXIT_TEMPORARY, "cannot take the stats page: "
		    "%s", strerror(errno));
	(void)close(s->fd);
	s->adopt = true;
	if (works)
		FAULT_POINT(adopted_after);
	return (0);
}

/* One of the two. */
static void
receive(struct started *s, const struct msg_handlers *handlers)
{
	struct buf b = { 0 };
	struct err err;

	s->fd = -1;
	if (control_receive(WORKER_CHANNEL, &b, &s->fd) != 1 ||
	    b.len < MSG_HEADER) {
		if (s->prepare)		/* nobody needs it any more */
			_exit(EXIT_TEMPORARY);
		fprintf(stderr, "wallaroo-worker is started by "
		    "wallaroo-supervisord, not by hand\n");
		exit(EXIT_PERMANENT);
	}
	if (msg_dispatch(handlers, s, FROM_SUP, slice_of(b.data + MSG_HEADER,
	    b.len - MSG_HEADER), &err) == -1)
		worker_fatal(s->w, EXIT_PERMANENT, "first messages: %s",
		    err.text);
	buf_fini(&b);
}

static void
set_role(const struct worker *w, const char *role)
{
	log_init(role, w->conf.log_level == CONF_ERROR ? LOG_ERR :
	    w->conf.log_level == CONF_WARNING ? LOG_WARNING :
	    w->conf.log_level == CONF_DEBUG ? LOG_DEBUG : LOG_INFO);
}

static void
receive_prepare(struct started *s)
{
	static const struct msg_handlers handlers = { .prepare = on_prepare };

	receive(s, &handlers);
	set_role(s->w, s->flags & PREPARE_SPARE ? "spare" : "worker");
}

static void
receive_adopt(struct started *s)
{
	static const struct msg_handlers handlers = { .adopt = on_adopt };
	char role[32];

	receive(s, &handlers);
	snprintf(role, sizeof(role), "worker-%u", s->w->me);
	set_role(s->w, role);
}

/* --- what runs before the loop ----------------------------------------- */

/* Imports see the application's first start and the same random numbers in
 * every process and every life. */
static void
open_host(struct worker *w)
{
	struct origin o = { w->start_time_ns, 1, 0, 0, 0 };
	struct err err;
	int r;

	w->a.host = &host_python;
	if (w->a.host->abi != HOST_ABI)
		worker_fatal(w, EXIT_PERMANENT, "host \"%s\" is of another "
		    "version", w->a.host->name);
	determ_enter(&o, -2);
	r = w->a.host->open(&w->a.app, &w->conf, &err);
	determ_leave();
	if (r == -1)
		worker_fatal(w, EXIT_PERMANENT, "%s", err.text);
}

static void
describe(struct worker *w)
{
	struct msg_topology m;
	struct buf topo = { 0 }, b = { 0 };
	struct err err;

	if (w->a.host->describe(w->a.app, &topo, &err) == -1)
		worker_fatal(w, EXIT_PERMANENT, "%s", err.text);
	m.topology = buf_slice(&topo);
	FAULT_POINT(describe_say_before);
	msg_put_topology(&b, &m);
	control_send(w, &b);
	control_flush_blocking(w);
	FAULT_POINT(describe_say_after);
	w->a.host->close(w->a.app);
	exit(0);
}

/* The application as built here must be the one that the supervisor saw. */
static void
check_topology(struct worker *w)
{
	struct buf mine = { 0 }, a = { 0 }, b = { 0 };
	struct topo t;
	struct err err;

	if (w->a.host->describe(w->a.app, &mine, &err) == -1 ||
	    topo_parse(&t, buf_slice(&mine), &err) == -1)
		worker_fatal(w, EXIT_PERMANENT, "%s", err.text);
	topo_print(&t, &a);
	topo_print(&w->topo, &b);
	if (a.len != b.len || memcmp(a.data, b.data, a.len) != 0)
		worker_fatal(w, EXIT_PERMANENT, "application_setup() built "
		    "another pipeline than before; it must give the same one "
		    "in every process.\nbefore:\n%snow:\n%s", buf_str(&b),
		    buf_str(&a));
	topo_fini(&t);
	buf_fini(&mine);
	buf_fini(&a);
	buf_fini(&b);
}

static void
say_prepared(struct worker *w, uint64_t import_ns)
{
	struct msg_prepared m = { import_ns };
	struct buf b = { 0 };

	msg_put_prepared(&b, &m);
	control_send(w, &b);
	control_flush_blocking(w);
	buf_fini(&b);
}

/* Code that was imported before somebody changed it must not run. */
static void
leave_if_changed(struct worker *w, uint64_t since_ns)
{
	struct buf what = { 0 };

	if (!w->a.host->changed(w->a.app, since_ns, &what)) {
		buf_fini(&what);
		return;
	}
	log_warn("what this process has imported was changed since, it ends "
	    "file=\"%s\"", buf_str(&what));
	log_flush(1);
	exit(EXIT_TEMPORARY);
}

/* Threads that user code has started run meanwhile. */
static void
wait_for_adoption(struct worker *w, uint64_t since_ns)
{
	struct pollfd p = { WORKER_CHANNEL, POLLIN, 0 };
	int r;

	do {
		leave_if_changed(w, since_ns);
		log_flush(0);
		w->a.host->idle_enter(w->a.app);
		r = poll(&p, 1, SPARE_LOOK_MS);
		w->a.host->idle_leave(w->a.app);
	} while (r == 0 || (r == -1 && errno == EINTR));
}

/* Import the application, which takes longer than all the rest. */
static void
prepare(struct started *s)
{
	uint64_t since_ns = clock_wall_ns(), began = clock_mono_ns();
	struct worker *w = s->w;

	open_host(w);
	if (w->topo.nsources > 0)	/* else it is to be described */
		check_topology(w);
	say_prepared(w, clock_mono_ns() - began);
	if (s->flags & PREPARE_SPARE)
		wait_for_adoption(w, since_ns);
	receive_adopt(s);
	if (s->flags & PREPARE_SPARE)
		leave_if_changed(w, since_ns);
	if (w->flags & START_DESCRIBE)
		describe(w);
}

/* Two processes never own one worker's files: the lock is on a descriptor
 * that children do not get, and goes with the process. */
static void
lock_files(struct worker *w)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	char *path = xasprintf("%s/worker-%u.lock", w->conf.state_directory,
	    w->me);
	int fd, tries;

	if (!w->durable || planted("RULE9") || planted("RULE9B")) {
		free(path);
		return;
	}
	if ((fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600)) == -1)
		worker_fatal(w, EXIT_TEMPORARY, "cannot open %s: %s", path,
		    strerror(errno));
	/* A predecessor that is about to end has a few seconds for it. */
	for (tries = 0; fcntl(fd, F_SETLK, &l) == -1; tries++) {
		if (tries == 50)
			worker_fatal(w, EXIT_TEMPORARY, "%s is locked: "
			    "another process works for worker %u", path,
			    w->me);
		usleep(100000);
	}
	free(path);
}

static void
say_opened(struct worker *w, bool ok, struct buf *text)
{
	struct msg_opened m = { ok, w->a.pos, buf_slice(text), w->older };
	struct buf b = { 0 };

	msg_put_opened(&b, &m);
	control_send(w, &b);
	buf_fini(&b);
}

/* How far this worker's past can be believed. */
static void
say_proven(struct worker *w)
{
	struct msg_proven m = { w->lost, w->lineage,
	    journal_tail(&w->journal) };
	struct buf b = { 0 };

	if (!w->machine)
		return;
	msg_put_proven(&b, &m);
	control_send(w, &b);
	buf_fini(&b);
}

static void
open_all(struct worker *w)
{
	struct buf text = { 0 };
	struct err err;

	lock_files(w);
	if (worker_make(w, &err) == -1)
		worker_fatal_err(w, &err);
	if (recover_open(w, &text, &err) == -1) {
		if (text.len == 0)
			worker_fatal_err(w, &err);
		log_error("%s", buf_str(&text));
		say_opened(w, false, &text);
		control_flush_blocking(w);
		exit(EXIT_PERMANENT);
	}
	if (!w->lost)
		recover_ends(w);
	if (w->flags & START_DRAINING)
		w->draining = true;
	if (!w->durable)
		log_info("durability is none: starting empty");
	say_proven(w);
	say_opened(w, true, &text);
	buf_fini(&text);
}

/* The last words of a process whose pages cannot be had: to the log, and to
 * the supervisor, so that nobody blames the record at work. */
static void
say_storage(const char *text, size_t len)
{
	/* fatal (28), code 111, text as MessagePack str 16. */
	uint8_t frame[MSG_HEADER + 6 + 512] = { 0, 0, 0, 0, 0x93, 28, 111,
	    0xda };
	size_t n = len > 512 ? 512 : len;

	frame[3] = (uint8_t)(n + 6);
	frame[2] = (uint8_t)((n + 6) >> 8);
	frame[8] = (uint8_t)(n >> 8);
	frame[9] = (uint8_t)n;
	memcpy(frame + 10, text, n);
	(void)send(WORKER_CHANNEL, frame, n + 10, MSG_NOSIGNAL |
	    MSG_DONTWAIT);
	(void)!write(STDERR_FILENO, "<3>", 3);
	(void)!write(STDERR_FILENO, text, n);
	(void)!write(STDERR_FILENO, "\n", 1);
}

static void
raise_limit(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < l.rlim_max) {
		l.rlim_cur = l.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &l);
	}
}

/* A supervisor that died before this process could ask to be told of it has
 * closed its end of the channel. */
static bool
abandoned(void)
{
	struct pollfd p = { WORKER_CHANNEL, 0, 0 };

	return (poll(&p, 1, 0) == 1 && (p.revents & POLLHUP) != 0);
}

int
main(int argc, char *argv[])
{
	struct worker *w = &worker;
	struct started started = { .w = w };
	pid_t parent = getppid();

	if (fault_listed(argc, argv))
		return (0);
	raise_limit();
	signal(SIGPIPE, SIG_IGN);
	log_init("worker", LOG_INFO);
	if (argc > 1 && strcmp(argv[1], "--copy") == 0)
		return (replay_copy(argc - 2, argv + 2));
	if (argc > 1 && strcmp(argv[1], "--replay") == 0) {
		log_init("replay", LOG_WARNING);
		return (replay_run(w, argc - 1, argv + 1));
	}
	if (getenv("WALLAROO_PLANTED") == NULL || !planted("RULE9")) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent || abandoned())
			_exit(EXIT_TEMPORARY);
	}
	(void)fcntl(WORKER_CHANNEL, F_SETFD, FD_CLOEXEC);
	receive_prepare(&started);
	if (started.flags & PREPARE_IMPORT)
		prepare(&started);
	else
		receive_adopt(&started);
	if (w->flags & START_RESPREAD) {
		struct err err;

		if (respread(w, &err) == -1)
			worker_fatal_err(w, &err);
		exit(0);
	}
	mapped_guard(say_storage);
	(void)fcntl(WORKER_CHANNEL, F_SETFL,
	    fcntl(WORKER_CHANNEL, F_GETFL) | O_NONBLOCK);
	if ((w->loop = ev_default_loop(EVFLAG_AUTO)) == NULL)
		worker_fatal(w, EXIT_TEMPORARY, "no event loop");
	control_attach(w);
	children_guard(w);
	open_all(w);
	loop_run(w);
}
