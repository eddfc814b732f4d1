/*
 * Sources: bytes of client connections, files, stdin, and turns for
 * generators, into the journal.  read(2) puts a connection's bytes straight
 * into the staged entry; what a killed predecessor had read but not published
 * is found by comparing the kernel's count with the journal's (rule 6).
 */
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "worker/planted.h"
#include "worker/sizes.h"
#include "worker/worker.h"

#define GEN_SHORT_NS	1000000ULL	/* an entry takes less: ask for more */
#define GEN_LONG_NS	4000000ULL
#define TICK_KEYS	1024		/* that one entry may fire */
#define SEGMENT_HEAD	8		/* bytes before stdin's in its file */

/* Journal bytes that sources may still take. */
uint64_t
source_space(const struct worker *w)
{
	uint64_t used = journal_used(&w->journal) - w->pending_all;

	if (used + LEAST_ROOM + ENTRY_HEADER >= w->source_room)
		return (0);
	return (w->source_room - used - ENTRY_HEADER - 8);
}

static const char *
source_name(const struct worker *w, size_t i)
{
	return (w->topo.sources[i].name);
}

static void
put_entry(struct worker *w, enum entry_type type, uint64_t channel,
    uint64_t off, const void *data, uint32_t len, uint16_t flags)
{
	uint8_t *to = journal_stage(&w->journal, type, channel, off, len,
	    flags);

	memcpy(to, data, len);
	journal_publish(&w->journal, len);
}

/* --- client connections ------------------------------------------------ */

struct conn *
source_find(struct worker *w, uint64_t id)
{
	struct conn *c;

	HASH_FIND(hh, w->conns, &id, sizeof(id), c);
	return (c);
}

bool
source_is_feeder(const struct conn *c)
{
	return (c->w->topo.sources[c->source].kind == SOURCE_CONNECTOR);
}

static void
close_fd(struct conn *c)
{
	ev_io_stop(c->w->loop, &c->io);
	ev_io_stop(c->w->loop, &c->wr);
	close(c->fd);
	c->fd = -1;
}

static void
free_conn(struct conn *c)
{
	HASH_DEL(c->w->conns, c);
	buf_fini(&c->out);
	buf_fini(&c->acks);
	free(c);
}

/* Nothing more comes from it: the supervisor may drop its duplicate. */
static void
close_conn(struct conn *c, const char *why)
{
	struct msg_close m = { c->id, msg_cstr(why) };
	struct buf b = { 0 };

	if (c->closing)
		return;
	c->closing = true;
	if (c->fd != -1) {
		/* With a duplicate held, close(2) alone closes nothing. */
		shutdown(c->fd, SHUT_RDWR);
		close_fd(c);
	}
	msg_put_close(&b, &m);
	control_send(c->w, &b);
	buf_fini(&b);
}

void
source_end(struct conn *c, uint16_t flags, const char *why)
{
	if (!c->eof) {
		c->eof = true;
		put_entry(c->w, ENTRY_EOF, c->id, c->journaled, "", 1, flags);
	}
	close_conn(c, why);
}

static void
on_readable(struct ev_loop *loop, ev_io *io, int events)
{
	struct conn *c = io->data;
	struct worker *w = c->w;
	uint64_t room = source_space(w);
	uint8_t *to;
	ssize_t n;

	(void)loop;
	(void)events;
	if (!w->admitting || room == 0 ||
	    journal_tail(&w->journal) - w->a.pos > BACKLOG) {
		source_admit(w);
		return;
	}
	if (room > CONN_BYTES)
		room = CONN_BYTES;
	to = journal_stage(&w->journal, ENTRY_BYTES, c->id, c->journaled,
	    (uint32_t)room, 0);
	FAULT_POINT(client_read_before);
	n = read(c->fd, to, room);
	FAULT_POINT(client_read_after);
	if (planted("RULE6"))
		usleep(3000);			/* a wider window for kills */
	if (n > 0) {
		journal_publish(&w->journal, (uint32_t)n);
		c->journaled += (uint64_t)n;
		STAT_ADD(w->stats, bytes_in, (uint64_t)n);
	} else if (n == 0)
		source_end(c, 0, "end");
	else if (errno == EFAULT)		/* the page, not the client */
		worker_fatal(w, EXIT_TEMPORARY, "storage failure: a page of "
		    "%s cannot be written", w->journal_path);
	else if (errno != EAGAIN && errno != EINTR)
		source_end(c, ENTRY_RESET, strerror(errno));
}

/* A connection, new or one that this worker's predecessor had. */
void
source_conn(struct worker *w, const struct msg_conn *m, int fd)
{
	struct conn *c = source_find(w, m->id);

	if (m->source >= w->topo.nsources) {
		close(fd);
		return;
	}
	if (c == NULL) {
		c = xcalloc(1, sizeof(*c));
		c->w = w;
		c->id = m->id;
		c->fd = -1;
		HASH_ADD(hh, w->conns, id, sizeof(c->id), c);
		c->source = m->source;
		if (w->running)
			put_entry(w, ENTRY_OPEN, c->id, 0, &c->source,
			    sizeof(c->source), 0);
		else
			c->fresh = true;
	}
	c->source = m->source;
	if (c->fd != -1)
		close_fd(c);
	c->fd = fd;
	c->since_ns = clock_mono_ns();
	STAT_SET(w->stats, connections, HASH_COUNT(w->conns));
	ev_io_init(&c->io, on_readable, fd, EV_READ);
	c->io.data = c;
	feeder_attach(c);
	if (!w->running)
		return;
	if (w->draining)
		return;
	if (w->admitting)
		ev_io_start(w->loop, &c->io);
}

void
source_dropped(struct worker *w, uint64_t id)
{
	struct conn *c = source_find(w, id);

	if (c == NULL || !w->running)
		return;
	put_entry(w, ENTRY_FORGET, id, c->journaled, "", 1, 0);
	if (c->fd != -1)
		close_fd(c);
	free_conn(c);
	STAT_SET(w->stats, connections, HASH_COUNT(w->conns));
}

/* The automaton says that these sent garbage. */
void
source_garbage(struct worker *w)
{
	struct conn *c;
	uint64_t id;
	size_t i;

	for (i = 0; i + sizeof(id) <= w->a.garbage.len; i += sizeof(id)) {
		memcpy(&id, w->a.garbage.data + i, sizeof(id));
		if ((c = source_find(w, id)) != NULL)
			close_conn(c, "garbage");
	}
	buf_clear(&w->a.garbage);
}

/* --- recovery of connections: at `run`, before anything is journaled --- */

/*
 * The kernel has handed over `consumed` bytes; what the journal lacks of
 * them must lie in the staged entry.
 */
static void
recover_conn(struct worker *w, struct conn *c)
{
	struct entry *e = journal_staged(&w->journal);
	uint64_t consumed, surplus;
	bool uncertain;
	struct err err;

	if (c->eof)
		return;
	if (tcp_consumed(c->fd, &consumed, &uncertain, &err) == -1)
		worker_fatal_err(w, &err);
	if (uncertain && consumed == c->journaled + 1)
		consumed--;
	surplus = consumed - c->journaled;
	if (surplus == 0)
		return;
	if (planted("RULE6")) {			/* forgotten */
		c->journaled = consumed;
		return;
	}
	if (uncertain || consumed < c->journaled || e == NULL ||
	    e->type != ENTRY_BYTES || e->channel != c->id ||
	    e->off != c->journaled || surplus > e->room) {
		log_error("position of a connection cannot be recovered, "
		    "closing it source=\"%s\" connection=%" PRIu64
		    " kernel=%" PRIu64 " journal=%" PRIu64,
		    source_name(w, c->source), c->id, consumed,
		    c->journaled);
		c->broken = true;
		return;
	}
	FAULT_POINT(staged_publish_before);
	journal_publish(&w->journal, (uint32_t)surplus);
	FAULT_POINT(staged_publish_after);
	c->journaled = consumed;
	log_debug("published what was read before the kill bytes=%" PRIu64,
	    surplus);
}

void
source_recover(struct worker *w)
{
	struct in_conn *in;
	struct conn *c, *next;
	bool fresh;

	/* A connector sends again what the streams do not have. */
	HASH_ITER(hh, w->conns, c, next)
		if (c->fd != -1 && !c->fresh && !source_is_feeder(c))
			recover_conn(w, c);
	HASH_ITER(hh, w->conns, c, next) {
		fresh = c->fresh;
		if (fresh) {
			c->fresh = false;
			put_entry(w, ENTRY_OPEN, c->id, 0, &c->source,
			    sizeof(c->source), 0);
			if (!source_is_feeder(c))
				recover_conn(w, c);
		}
		HASH_FIND(hh, w->a.conns, &c->id, sizeof(c->id), in);
		if (c->fd == -1) {		/* it did not survive */
			if (!c->eof)
				put_entry(w, ENTRY_EOF, c->id, c->journaled,
				    "", 1, ENTRY_RESET);
			put_entry(w, ENTRY_FORGET, c->id, c->journaled, "",
			    1, 0);
			free_conn(c);
		} else if (c->eof)
			close_conn(c, "end");
		else if (c->broken)
			source_end(c, ENTRY_RESET, "position lost");
		else if (in != NULL && in->bad)
			close_conn(c, "garbage");
		else if (source_is_feeder(c) && !fresh)
			source_end(c, ENTRY_RESET, "worker replaced");
	}
}

/* --- files and stdin --------------------------------------------------- */

static void
open_file(struct worker *w, size_t i)
{
	const struct topo_source *src = &w->topo.sources[i];
	struct in_source *in = &w->a.sources[i];
	struct source *s = &w->sources[i];
	struct stat st;

	/* O_NONBLOCK: not to wait in here for the writer of a named pipe. */
	if ((s->fd = open(src->path, O_RDONLY | O_CLOEXEC | O_NOCTTY |
	    O_NONBLOCK)) == -1 ||
	    fstat(s->fd, &st) == -1)
		worker_fatal(w, EXIT_PERMANENT, "source \"%s\": cannot open "
		    "%s: %s", src->name, src->path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		worker_fatal(w, EXIT_PERMANENT, "source \"%s\": %s is not a "
		    "regular file", src->name, src->path);
	if ((uint64_t)st.st_size < s->journaled || (s->journaled > 0 &&
	    in->ino != 0 && (in->ino != st.st_ino || in->dev != st.st_dev)))
		worker_fatal(w, EXIT_PERMANENT, "source \"%s\": %s is not the "
		    "file that was read up to byte %" PRIu64 ": put it back, "
		    "or begin with an empty state-directory", src->name,
		    src->path, s->journaled);
	in->dev = st.st_dev;
	in->ino = st.st_ino;
}

/* What is in the journal is not needed in the segment any more. */
static void
punch_segment(struct source *s)
{
	uint64_t to = (s->journaled - s->base) & ~(uint64_t)4095;

	if (to <= s->punched + (1 << 20))
		return;
	(void)fallocate(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
	    4096, (off_t)(to - 4096));
	s->punched = to;
}

/* Read on; false if there is nothing now. */
static bool
pump_file(struct worker *w, size_t i)
{
	struct source *s = &w->sources[i];
	uint64_t room = source_space(w);
	uint8_t *to;
	ssize_t n;

	if (s->fd == -1 || s->eof || room == 0)
		return (false);
	if (room > FILE_BYTES)
		room = FILE_BYTES;
	to = journal_stage(&w->journal, ENTRY_FILE, i, s->journaled,
	    (uint32_t)room, 0);
	FAULT_POINT(file_read_before);
	n = pread(s->fd, to, room, (off_t)(s->journaled - s->base));
	FAULT_POINT(file_read_after);
	if (n > 0) {
		journal_publish(&w->journal, (uint32_t)n);
		s->journaled += (uint64_t)n;
		STAT_ADD(w->stats, bytes_in, (uint64_t)n);
		if (s->in != -1)
			punch_segment(s);
		return (true);
	}
	if (n == -1 && errno == EINTR)
		return (true);
	if (n == -1)
		worker_fatal(w, EXIT_TEMPORARY, "source \"%s\": cannot read "
		    "at byte %" PRIu64 ": %s", source_name(w, i),
		    s->journaled, strerror(errno));
	if (w->topo.sources[i].kind == SOURCE_STDIN && !s->in_eof)
		return (false);			/* more may come */
	s->eof = true;
	put_entry(w, ENTRY_EOF, i, s->journaled, "", 1, ENTRY_SOURCE);
	log_info("source has ended source=\"%s\" bytes=%" PRIu64,
	    source_name(w, i), s->journaled);
	return (true);
}

/*
 * A pipe on stdin goes by splice(2) into a segment file, whose size is the
 * position: what was taken from the pipe is in the file, whoever dies.  A
 * terminal or socket is copied, and a kill in between may lose one read.  A
 * regular file is read as one.
 */
static ssize_t
take_stdin(struct source *s)
{
	char copy[16 * 1024];
	ssize_t n;

	if (s->pipe)
		return (splice(s->in, NULL, s->fd, NULL, FILE_BYTES,
		    SPLICE_F_MOVE));
	n = read(s->in, copy, sizeof(copy));
	if (n > 0 && write(s->fd, copy, (size_t)n) != n)
		return (-1);
	return (n);
}

static void
on_stdin(struct ev_loop *loop, ev_io *io, int events)
{
	static struct log_rate rate;
	struct worker *w = io->data;
	struct source *s;
	ssize_t n;
	size_t i;

	(void)events;
	for (i = 0; i < w->topo.nsources; i++)
		if (&w->sources[i].io == io)
			break;
	s = &w->sources[i];
	if (!w->admitting) {
		ev_io_stop(loop, io);
		return;
	}
	FAULT_POINT(stdin_take_before);
	n = take_stdin(s);
	FAULT_POINT(stdin_take_after);
	if (n > 0 || (n == -1 && (errno == EINTR || errno == EAGAIN)))
		return;
	ev_io_stop(loop, io);
	if (n == 0)
		s->in_eof = true;
	else if (errno == ENOSPC) {
		/* The next change of admission tries again; until then the
		 * writer of the pipe waits. */
		if (log_allowed(&rate))
			log_error("no space for standard input in %s",
			    w->run_dir);
		s->wait = true;
	} else
		worker_fatal(w, EXIT_TEMPORARY, "cannot read standard input: "
		    "%s", strerror(errno));
}

char *
source_segment(const struct worker *w, size_t i)
{
	char suffix[64];

	snprintf(suffix, sizeof(suffix), "stdin%zu", i);
	return (worker_path(w, suffix));
}

static void
open_segment(struct worker *w, size_t i)
{
	struct source *s = &w->sources[i];
	struct stat st;
	char *path = source_segment(w, i);

	s->fd = path == NULL ? memfd_create("stdin", MFD_CLOEXEC) :
	    open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (s->fd == -1 || fstat(s->fd, &st) == -1)
		worker_fatal(w, EXIT_TEMPORARY, "cannot open the segment of "
		    "standard input: %s", strerror(errno));
	/* Its first bytes say which stream offset the rest begins at. */
	s->base = s->journaled;
	if (st.st_size < SEGMENT_HEAD ?
	    pwrite(s->fd, &s->base, SEGMENT_HEAD, 0) != SEGMENT_HEAD :
	    pread(s->fd, &s->base, SEGMENT_HEAD, 0) != SEGMENT_HEAD)
		worker_fatal(w, EXIT_TEMPORARY, "segment of standard input: "
		    "%s", strerror(errno));
	s->base -= SEGMENT_HEAD;
	if (lseek(s->fd, 0, SEEK_END) == -1)
		worker_fatal(w, EXIT_TEMPORARY, "lseek: %s", strerror(errno));
	free(path);
}

void
source_stdin(struct worker *w, uint32_t i, int fd)
{
	struct in_source *in;
	struct source *s;
	struct stat st;

	if (i >= w->topo.nsources || !w->sources[i].mine ||
	    w->topo.sources[i].kind != SOURCE_STDIN ||
	    w->sources[i].in != -1) {
		close(fd);
		return;
	}
	s = &w->sources[i];
	in = &w->a.sources[i];
	s->eof = false;
	if (in->ended)			/* what comes is a new beginning */
		w->a.progress.dirty = true;
	in->ended = false;
	if (fstat(fd, &st) == -1)
		worker_fatal(w, EXIT_TEMPORARY, "standard input: %s",
		    strerror(errno));
	if (S_ISREG(st.st_mode)) {
		/* Another file than the last time begins at its start. */
		s->base = in->ino == 0 || (in->ino == st.st_ino &&
		    in->dev == st.st_dev) ? 0 : s->journaled;
		in->ino = st.st_ino;
		in->dev = st.st_dev;
		s->fd = fd;
		s->in_eof = true;
		return;
	}
	s->pipe = S_ISFIFO(st.st_mode);
	s->in = fd;
	open_segment(w, i);
	ev_io_init(&s->io, on_stdin, fd, EV_READ);
	s->io.data = w;
}

/* --- generators -------------------------------------------------------- */

/*
 * All values of an entry have its time.  So the next one waits until the last
 * is processed, and asks for as many as take a few milliseconds to make.
 */
static bool
pump_gen(struct worker *w, size_t i)
{
	struct source *s = &w->sources[i];
	static const uint8_t zeros[GEN_VALUES];
	uint64_t now;

	if (w->a.sources[i].ended || source_space(w) < GEN_VALUES)
		return (false);
	if (w->a.pos < s->asked_to)
		return (true);
	now = clock_mono_ns();
	if (s->asked == 0)
		s->asked = 1;
	else if (now - s->asked_ns < GEN_SHORT_NS && s->asked < GEN_VALUES)
		s->asked *= 2;
	else if (now - s->asked_ns > GEN_LONG_NS && s->asked > 1)
		s->asked /= 2;
	put_entry(w, ENTRY_GEN, i, s->journaled, zeros, s->asked, 0);
	s->journaled += s->asked;
	s->asked_to = journal_tail(&w->journal);
	s->asked_ns = now;
	return (true);
}

/* --- the time ------------------------------------------------------------ */

/*
 * Windows that wait for the time to pass get an entry that says so, one at a
 * time, and not while others are held back.  True: one was put.
 */
bool
source_tick(struct worker *w)
{
	static const uint8_t zeros[TICK_KEYS];
	uint64_t when = automaton_tick(&w->a), now = clock_wall_ns();

	if (now < w->journal.clock_ns)
		now = w->journal.clock_ns;
	if (when > now || !w->admitting || w->a.pos < w->tick_end ||
	    w->a.pos < w->replay_to || source_space(w) < 2 * TICK_KEYS)
		return (false);
	put_entry(w, ENTRY_TICK, 0, 0, zeros, TICK_KEYS, 0);
	w->tick_end = journal_tail(&w->journal);
	return (true);
}

/* --- all --------------------------------------------------------------- */

void
source_open(struct worker *w)
{
	struct err err;
	size_t i;

	for (i = 0; i < w->topo.nsources; i++) {
		struct source *s = &w->sources[i];

		s->fd = s->in = -1;
		s->mine = automaton_reads(&w->a, i);
		if (!s->mine)
			continue;
		/* What a finite run left to the next one. */
		if (w->topo.sources[i].kind == SOURCE_KAFKA && !w->unclean)
			s->eof = false;
		if (w->topo.sources[i].kind == SOURCE_FILE && !s->eof)
			open_file(w, i);
		else if (w->topo.sources[i].kind == SOURCE_GEN &&
		    !w->a.sources[i].ended && w->a.host->generate_seek(w->a.app,
		    w->topo.sources[i].fn, w->a.sources[i].off, &err) == -1)
			worker_fatal_err(w, &err);
	}
}

/* Is everything that was taken from stdin in the journal? */
bool
source_settled(const struct worker *w)
{
	const struct source *s;
	struct stat st;
	size_t i;

	for (i = 0; i < w->topo.nsources; i++) {
		s = &w->sources[i];
		if (s->in != -1 && s->fd != -1 && fstat(s->fd, &st) == 0 &&
		    (uint64_t)st.st_size > s->journaled - s->base)
			return (false);
	}
	return (true);
}

/* Files, generators and standard input of this worker that have not ended,
 * or whose end is not in the journal yet. */
uint32_t
source_open_count(const struct worker *w)
{
	uint32_t n = 0;
	size_t i;

	for (i = 0; i < w->topo.nsources; i++)
		if (w->sources[i].mine && !(w->topo.sources[i].kind ==
		    SOURCE_GEN ? w->a.sources[i].ended : w->sources[i].eof))
			n++;
	return (n);
}

/* May sources be read now?  If that changes, watchers follow. */
void
source_admit(struct worker *w)
{
	bool may = w->running && !w->draining && !w->stalled &&
	    journal_tail(&w->journal) - w->a.pos <= BACKLOG &&
	    source_space(w) > 0 && !loop_pressure(w, -1);
	struct conn *c, *next;
	size_t i;

	for (i = 0; may && i < w->topo.nsources; i++)
		if (w->sources[i].wait && clock_mono_ns() > w->stdin_ns) {
			w->stdin_ns = clock_mono_ns() + 1000000000;
			w->sources[i].wait = false;
			ev_io_start(w->loop, &w->sources[i].io);
		}
	if (may == w->admitting)
		return;
	w->admitting = may;
	HASH_ITER(hh, w->conns, c, next) {
		if (c->fd == -1 || c->closing)
			continue;
		if (may)
			ev_io_start(w->loop, &c->io);
		else
			ev_io_stop(w->loop, &c->io);
	}
	for (i = 0; i < w->topo.nsources; i++) {
		if (w->sources[i].in == -1 || w->sources[i].in_eof)
			continue;
		if (may)
			ev_io_start(w->loop, &w->sources[i].io);
		else
			ev_io_stop(w->loop, &w->sources[i].io);
	}
}

/* Files, generators and Kafka, while little is waiting; true: there may be
 * more. */
bool
source_pump(struct worker *w)
{
	bool more = false;
	size_t i;

	if (!w->admitting && !(w->draining && w->running && !w->stalled))
		return (false);
	for (i = 0; i < w->topo.nsources; i++) {
		enum topo_source_kind kind = w->topo.sources[i].kind;

		if (!w->sources[i].mine)
			continue;
		/* At a stop only what was taken from stdin still goes in. */
		if (w->draining && kind != SOURCE_STDIN)
			continue;
		if (journal_tail(&w->journal) - w->a.pos > BACKLOG) {
			more = true;
			break;
		}
		more |= kind == SOURCE_GEN ? pump_gen(w, i) :
		    kind == SOURCE_KAFKA ? kafka_source_pump(w, i) :
		    pump_file(w, i);
	}
	return (more);
}
