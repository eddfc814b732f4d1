/*
 * Sinks: bytes from their outboxes to receivers.
 *
 * Where to go on after a death is asked of what survived it: a connection's
 * kernel counters (tcpinfo.c), a file's size.  An outbox keeps what a TCP
 * receiver's kernel has not acknowledged; after a reset the rest is sent
 * again, from the start of the first record not wholly acknowledged.
 *
 * With durability = machine an outbox keeps what a file has until the file was
 * synced.  After a power loss the file is cut to where the outbox begins and
 * written from there; so a file is not written before a checkpoint says which
 * byte of it that is.
 */
#include <sys/socket.h>
#include <sys/stat.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "worker/kafka_sink.h"
#include "worker/mapped.h"
#include "worker/planted.h"
#include "worker/worker.h"

#define IOVS		64
#define WRITES		8		/* per turn and sink */
#define RETRY_NS	1000000000ULL

static const char *
name(const struct sink *s)
{
	return (s->w->topo.sinks[s->index].name);
}

static enum topo_sink_kind
kind(const struct sink *s)
{
	return (s->w->topo.sinks[s->index].kind);
}

/* Payload offset of the first byte still kept. */
static uint64_t
kept_from(const struct sink *s)
{
	struct frame f;

	if (outbox_used(&s->box) == 0)
		return (s->box.payload_tail);
	(void)outbox_frame(&s->box, outbox_head(&s->box), &f);
	return (f.payload);
}

uint64_t
sink_kept_from(const struct sink *s)
{
	return (kept_from(s));
}

/* Go on at payload offset `to`. */
void
sink_seek(struct sink *s, uint64_t to)
{
	uint64_t off = outbox_head(&s->box), next;
	struct frame f;

	if (to < kept_from(s))
		to = kept_from(s);
	while (off < outbox_tail(&s->box)) {
		next = outbox_frame(&s->box, off, &f);
		if (to < f.payload + f.len)
			break;
		off = next;
	}
	s->frame = off;
	s->written = to;
}

/* Receivers have everything before payload offset `to`. */
void
sink_trim(struct sink *s, uint64_t to)
{
	uint64_t off = outbox_head(&s->box), next;
	struct frame f;

	while (off < outbox_tail(&s->box)) {
		next = outbox_frame(&s->box, off, &f);
		if (f.payload + f.len > to)
			break;
		STAT_ADD(s->w->stats, bytes_out, f.len);
		off = next;
	}
	outbox_free(&s->box, off);
	if (s->frame < off)
		s->frame = off;
}

/* Start of the first record that does not end at or before payload offset
 * `to`; *n counts the records from there that begin before `until`. */
static uint64_t
record_start(struct sink *s, uint64_t to, uint64_t until, uint64_t *n)
{
	uint64_t off = outbox_head(&s->box), next, at, start = to;
	struct frame f;
	uint32_t i, len;
	bool found = false;

	*n = 0;
	for (; off < outbox_tail(&s->box); off = next) {
		next = outbox_frame(&s->box, off, &f);
		at = f.payload;
		for (i = 0; i < f.records && f.lens != 0; i++) {
			outbox_read(&s->box, off + FRAME_HEADER + f.len +
			    i * 4, &len, 4);
			if (!found && at + len > to) {
				found = true;
				start = at;
			}
			if (found && at < until)
				(*n)++;
			at += len;
		}
	}
	return (start);
}

/* Pieces of payload from s->written on; at most max bytes. */
static int
gather(struct sink *s, struct iovec *iov, size_t max, size_t *total)
{
	uint64_t off = s->frame, next, at = s->written, left;
	uint64_t limit = durable_sink_limit(s->w);
	struct frame f;
	int i = 0, k;

	*total = 0;
	for (; off < outbox_tail(&s->box) && i < IOVS && *total < max;
	    off = next) {
		next = outbox_frame(&s->box, off, &f);
		if (f.pos > limit)
			break;
		left = f.payload + f.len - at;
		if (left == 0 || at > f.payload + f.len)
			continue;
		if (left > max - *total)
			left = max - *total;
		k = outbox_iov(&s->box, off + FRAME_HEADER + (at - f.payload),
		    left, iov + i, IOVS - i);
		for (; k > 0; k--, i++) {
			*total += iov[i].iov_len;
			at += iov[i].iov_len;
		}
		if (at < f.payload + f.len)
			break;
	}
	return (i);
}

static void
advance(struct sink *s, uint64_t n)
{
	uint64_t next;
	struct frame f;

	s->written += n;
	while (s->frame < outbox_tail(&s->box)) {
		next = outbox_frame(&s->box, s->frame, &f);
		if (s->written < f.payload + f.len)
			break;
		s->frame = next;
	}
}

/* --- TCP --------------------------------------------------------------- */

void
sink_ask(struct sink *s)
{
	struct msg_connect m = { (uint32_t)s->index };
	struct buf b = { 0 };

	if (s->asked)
		return;
	s->asked = true;
	msg_put_connect(&b, &m);
	control_send(s->w, &b);
	buf_fini(&b);
}

/* Let this connection go and ask for another. */
static void
give_up(struct sink *s, uint64_t conn)
{
	struct msg_close m = { conn, msg_cstr("lost") };
	struct buf b = { 0 };

	ev_io_stop(s->w->loop, &s->wr);
	shutdown(s->fd, SHUT_RDWR);
	close(s->fd);
	s->fd = -1;
	msg_put_close(&b, &m);
	control_send(s->w, &b);
	buf_fini(&b);
	sink_ask(s);
}

/* The receiver reset or closed: what its kernel acknowledged is delivered. */
static void
lost(struct sink *s, const char *why)
{
	struct outbox_sink *k = outbox_sink(&s->box);
	uint64_t acked, accepted, to, repeats = 0, conn = k->conn;
	struct err err;

	to = kept_from(s);
	if (tcp_sent(s->fd, &acked, &accepted, &err) == 0 &&
	    acked >= k->baseline &&
	    k->conn_base + (acked - k->baseline) <= s->box.payload_tail &&
	    k->conn_base + (acked - k->baseline) >= to)
		to = k->conn_base + (acked - k->baseline);
	to = record_start(s, to, s->written, &repeats);
	k->resume = to;
	atomic_signal_fence(memory_order_seq_cst);
	k->conn = 0;
	sink_trim(s, to);
	log_warn("receiver closed the connection, connecting again "
	    "sink=\"%s\" why=\"%s\" may_be_repeated=%" PRIu64, name(s), why,
	    repeats);
	STAT_ADD(s->w->stats, repeats, repeats);
	give_up(s, conn);
}

/* Free what the receiver's kernel has acknowledged. */
static void
settle(struct sink *s)
{
	struct outbox_sink *k = outbox_sink(&s->box);
	uint64_t acked, accepted;
	struct err err;

	if (s->fd == -1 || outbox_used(&s->box) == 0)
		return;
	if (s->half_closed && tcp_is_over(s->fd)) {
		lost(s, "reset after its end");
		return;
	}
	if (tcp_sent(s->fd, &acked, &accepted, &err) == -1 ||
	    acked < k->baseline)
		return;
	FAULT_POINT(sink_settle_before);
	sink_trim(s, k->conn_base + (acked - k->baseline));
	FAULT_POINT(sink_settle_after);
}

static void
watch(struct sink *s, int events)
{
	if (s->half_closed)		/* always readable: never ask */
		events &= ~EV_READ;
	if (ev_is_active(&s->wr) && (s->wr.events & (EV_READ | EV_WRITE)) ==
	    events)
		return;
	ev_io_stop(s->w->loop, &s->wr);
	if (events == 0)
		return;
	ev_io_set(&s->wr, s->fd, events);
	ev_io_start(s->w->loop, &s->wr);
}

static void
flush_tcp(struct sink *s)
{
	struct iovec iov[IOVS];
	struct msghdr m = { .msg_iov = iov };
	size_t total;
	ssize_t n;
	int i;

	for (i = 0; i < WRITES && s->fd != -1; i++) {
		m.msg_iovlen = (size_t)gather(s, iov, 256 * 1024, &total);
		if (total == 0) {
			watch(s, EV_READ);
			return;
		}
		FAULT_POINT(sink_send_before);
		n = sendmsg(s->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
		FAULT_POINT(sink_send_after);
		if (n == -1 && errno == EINTR)
			continue;
		if (n == -1 && (errno == EAGAIN || errno == ENOBUFS)) {
			watch(s, EV_READ | EV_WRITE);
			return;
		}
		if (n == -1) {
			lost(s, strerror(errno));
			return;
		}
		advance(s, (uint64_t)n);
	}
	if (s->fd != -1)
		watch(s, EV_READ | EV_WRITE);
}

static void
on_io(struct ev_loop *loop, ev_io *io, int events)
{
	struct sink *s = io->data;
	char skip[4096];
	ssize_t n;

	(void)loop;
	if (events & EV_READ) {
		n = recv(s->fd, skip, sizeof(skip), MSG_DONTWAIT);
		if (n == -1 && errno != EAGAIN && errno != EINTR) {
			lost(s, strerror(errno));
			return;
		}
		if (n == 0) {	/* it may have closed one half only */
			s->half_closed = true;
			watch(s, io->events & EV_WRITE);
		}
	}
	if (s->fd != -1 && (events & EV_WRITE))
		flush_tcp(s);
}

/* A connection, new or the one that this worker's predecessor had. */
void
sink_conn(struct worker *w, const struct msg_sinkconn *m, int fd)
{
	struct sink *s;
	struct outbox_sink *k;
	uint64_t acked, accepted, to;
	struct err err;

	if (m->sink >= w->topo.nsinks || !w->sinks[m->sink].mine ||
	    w->sinks[m->sink].fd != -1) {
		close(fd);
		return;
	}
	s = &w->sinks[m->sink];
	if (s->committer != NULL) {
		committer_conn(s, m, fd);
		return;
	}
	k = outbox_sink(&s->box);
	s->fd = fd;
	s->asked = false;
	s->half_closed = false;
	ev_io_init(&s->wr, on_io, fd, EV_READ);
	s->wr.data = s;
	if (tcp_sent(fd, &acked, &accepted, &err) == -1)
		worker_fatal_err(w, &err);
	if (k->conn == m->id && m->id != 0) {
		to = k->conn_base + (accepted - k->baseline);
		if (accepted < k->baseline || to < kept_from(s) ||
		    to > s->box.payload_tail)
			worker_fatal(w, EXIT_PERMANENT, "sink \"%s\": the "
			    "kernel says that %" PRIu64 " bytes were "
			    "accepted, the outbox holds %" PRIu64 " to %"
			    PRIu64 ": the position of this connection cannot "
			    "be trusted", name(s), to, kept_from(s),
			    s->box.payload_tail);
		sink_seek(s, to);
	} else if (accepted != m->baseline) {
		/* One that was given up, and carries bytes of before. */
		give_up(s, m->id);
		return;
	} else {
		if (k->conn != 0) {
			k->resume = kept_from(s);
			log_warn("the connection to the receiver did not "
			    "survive, what it had not acknowledged is sent "
			    "again sink=\"%s\"", name(s));
		}
		FAULT_POINT(sink_attach_before);
		k->conn = 0;
		atomic_signal_fence(memory_order_seq_cst);
		k->conn_base = k->resume;
		k->baseline = m->baseline;
		atomic_signal_fence(memory_order_seq_cst);
		k->conn = m->id;
		FAULT_POINT(sink_attach_after);
		sink_seek(s, k->resume);
	}
	watch(s, EV_READ | EV_WRITE);
}

/* --- files ------------------------------------------------------------- */

static const char *
path_of(const struct sink *s)
{
	if (kind(s) == SINK_DEAD)
		return (s->w->conf.dead_letter_file);
	return (s->w->topo.sinks[s->index].path);
}

/* Of what was written since the last sync nobody knows what is left. */
static int
cut_file(struct sink *s, const struct stat *st, struct err *err)
{
	struct outbox_sink *k = outbox_sink(&s->box);
	uint64_t sure = kept_from(s) + (uint64_t)k->file_shift;

	if (k->cut == 1 && k->opened == 1 && k->dev == st->st_dev &&
	    k->ino == st->st_ino && S_ISREG(st->st_mode) &&
	    (uint64_t)st->st_size > sure) {
		log_info("file is cut to what was synced before the failure "
		    "sink=\"%s\" size=%" PRIu64 " was=%" PRIu64, name(s),
		    sure, (uint64_t)st->st_size);
		FAULT_POINT(file_cut_before);
		if (ftruncate(s->fd, (off_t)sure) == -1)
			return (err_sys(err, ERR_STORAGE, "sink \"%s\": "
			    "cannot cut the file", name(s)));
		FAULT_POINT(file_cut_after);
	}
	k->cut = 0;
	return (0);
}

/* The file that was written to, under another name: its descriptor, or -1. */
static int
find_renamed(struct sink *s, struct stat *st)
{
	const struct outbox_sink *k = outbox_sink(&s->box);
	const char *path = path_of(s), *slash = strrchr(path, '/');
	int dirlen = slash == NULL ? 0 : (int)(slash - path) + 1, fd = -1;
	char *dir = xasprintf("%.*s.", dirlen, path), *other;
	DIR *d = opendir(dir);
	struct dirent *e;

	free(dir);
	while (d != NULL && fd == -1 && (e = readdir(d)) != NULL) {
		other = xasprintf("%.*s%s", dirlen, path, e->d_name);
		if (stat(other, st) == 0 && st->st_dev == k->dev &&
		    st->st_ino == k->ino && S_ISREG(st->st_mode))
			fd = open(other, O_WRONLY | O_APPEND | O_CLOEXEC |
			    O_NONBLOCK);
		free(other);
	}
	if (d != NULL)
		closedir(d);
	return (fd);
}

/*
 * The path means another file than before.  How far the one before has got,
 * perhaps just before a death, is asked of itself: whoever rotates files
 * renames them within their directory.
 */
static int
leave_renamed(struct sink *s, bool cut, uint64_t *to, struct err *err)
{
	int64_t shift = outbox_sink(&s->box)->file_shift;
	struct stat st;
	uint64_t has;
	int fd = find_renamed(s, &st), r = 0;

	if (fd == -1) {
		log_warn("another file than before, and that one is not in "
		    "its directory any more: what was written last may come "
		    "again sink=\"%s\" path=\"%s\"", name(s), path_of(s));
		return (0);
	}
	has = (uint64_t)((int64_t)st.st_size - shift);
	if (cut && has > *to) {		/* as under its own name */
		has = *to;
		r = ftruncate(fd, (off_t)((int64_t)has + shift));
	}
	if (has >= *to && has <= s->box.payload_tail) {
		if (r == 0 && s->w->machine)
			r = fdatasync(fd);
		*to = has;
	}
	if (r == -1)
		(void)err_sys(err, ERR_STORAGE, "sink \"%s\": cannot cut or "
		    "sync the file that was rotated", name(s));
	close(fd);
	log_info("another file than before, going on at its end sink=\"%s\" "
	    "path=\"%s\"", name(s), path_of(s));
	return (r);
}

static bool
is_pipe(const char *path)
{
	struct stat st;

	return (stat(path, &st) == 0 && S_ISFIFO(st.st_mode));
}

/* The file continues at its size; another file than before begins anew. */
static int
open_file(struct sink *s, struct err *err)
{
	struct outbox_sink *k = outbox_sink(&s->box);
	uint64_t size, to = kept_from(s);
	bool cut = k->cut == 1;
	int64_t shift;
	struct stat st;

	FAULT_POINT(file_open_before);
	if (s->fd == -1 && is_pipe(path_of(s)))
		return (err_set(err, ERR_CONFIG, "sink \"%s\": %s is a named "
		    "pipe: what it took cannot be known; let standard output "
		    "be one", name(s), path_of(s)));
	if (s->fd == -1 && (s->fd = open(path_of(s), O_WRONLY | O_CREAT |
	    O_APPEND | O_CLOEXEC | O_NONBLOCK, 0644)) == -1)
		return (err_sys(err, ERR_STORAGE, "sink \"%s\": cannot open "
		    "%s", name(s), path_of(s)));
	if (fstat(s->fd, &st) == -1)
		return (err_sys(err, ERR_STORAGE, "sink \"%s\"", name(s)));
	if (cut_file(s, &st, err) == -1)
		return (-1);
	if (fstat(s->fd, &st) == -1)
		return (err_sys(err, ERR_STORAGE, "sink \"%s\"", name(s)));
	size = (uint64_t)st.st_size;
	if (k->opened == 1 && k->dev == st.st_dev && k->ino == st.st_ino &&
	    S_ISREG(st.st_mode)) {
		uint64_t has = (uint64_t)((int64_t)size - k->file_shift);

		if (has >= to && has <= s->box.payload_tail)
			to = has;
		else
			log_warn("file was changed by somebody else, going "
			    "on at its end sink=\"%s\" path=\"%s\" size=%"
			    PRIu64, name(s), path_of(s), size);
	} else if (k->opened == 1 && kind(s) != SINK_STDOUT &&
	    leave_renamed(s, cut, &to, err) == -1)
		return (-1);
	shift = (int64_t)size - (int64_t)to;
	if (k->opened == 0 || k->dev != st.st_dev || k->ino != st.st_ino ||
	    k->file_shift != shift)
		k->known = 0;
	/* The file may be new: its name must survive as its bytes do. */
	if (s->w->machine && k->known == 0 && kind(s) != SINK_STDOUT &&
	    mapped_sync_entry(path_of(s), err) == -1)
		return (-1);
	k->opened = 0;
	atomic_signal_fence(memory_order_seq_cst);
	k->dev = st.st_dev;
	k->ino = st.st_ino;
	k->file_shift = shift;
	atomic_signal_fence(memory_order_seq_cst);
	k->opened = 1;
	FAULT_POINT(file_open_after);
	if (!s->w->machine)
		sink_trim(s, to);
	s->synced = kept_from(s);
	sink_seek(s, to);
	return (0);
}

/* What the old file has got is on the disk before the new one begins. */
static void
leave_file(struct sink *s)
{
	FAULT_POINT(file_leave_before);
	if (fdatasync(s->fd) == -1) {
		sink_distrust(s->w);
		worker_fatal(s->w, EXIT_TEMPORARY, "sink \"%s\": cannot sync "
		    "the file that was rotated: %s", name(s),
		    strerror(errno));
	}
	sink_trim(s, s->written);
	FAULT_POINT(file_leave_after);
}

/* Has the path come to mean another file (rotation)? */
static void
check_rotated(struct sink *s)
{
	struct outbox_sink *k = outbox_sink(&s->box);
	struct stat st;
	struct err err;

	if (s->fd == -1 || kind(s) == SINK_STDOUT)
		return;
	if (stat(path_of(s), &st) == 0 && st.st_dev == k->dev &&
	    st.st_ino == k->ino)
		return;
	if (s->w->machine)
		leave_file(s);
	close(s->fd);
	s->fd = -1;
	if (open_file(s, &err) == -1) {
		log_error("%s", err.text);
		s->retry_ns = clock_mono_ns() + RETRY_NS;
	}
}

static void
file_failed(struct sink *s, const char *why)
{
	static struct log_rate rate;

	if (log_allowed(&rate))
		log_error("cannot write, trying again each second "
		    "sink=\"%s\" path=\"%s\" why=\"%s\"", name(s),
		    kind(s) == SINK_STDOUT ? "standard output" : path_of(s),
		    why);
	s->retry_ns = clock_mono_ns() + RETRY_NS;
}

static void
flush_file(struct sink *s)
{
	struct iovec iov[IOVS];
	size_t total;
	ssize_t n;
	int i, k;
	struct err err;

	if (outbox_used(&s->box) == 0 || (s->retry_ns != 0 &&
	    clock_mono_ns() < s->retry_ns))
		return;
	s->retry_ns = 0;
	if (s->fd == -1) {
		if (kind(s) == SINK_STDOUT)
			return;		/* comes with stdio */
		if (open_file(s, &err) == -1) {
			file_failed(s, err.text);
			return;
		}
	}
	/* A power loss now would leave bytes of which nothing is known. */
	if (s->w->machine && !outbox_sink(&s->box)->known &&
	    !planted("STABLE9")) {
		s->w->early = true;
		return;
	}
	for (i = 0; i < WRITES; i++) {
		k = gather(s, iov, 1024 * 1024, &total);
		if (total == 0)
			return;
		FAULT_POINT(file_write_before);
		n = writev(s->fd, iov, k);
		FAULT_POINT(file_write_after);
		if (n == -1 && errno == EINTR)
			continue;
		if (n == -1) {
			file_failed(s, strerror(errno));
			return;
		}
		advance(s, (uint64_t)n);
		FAULT_POINT(file_settle_before);
		if (!s->w->machine)
			sink_trim(s, s->written);
		FAULT_POINT(file_settle_after);
	}
}

/* --- files on a disk ------------------------------------------------------ */

static bool
syncs(const struct sink *s)
{
	return (s->w->machine && s->mine && !sink_is_everywhere(
	    &s->w->topo.sinks[s->index]) && !s->pipe && s->fd != -1);
}

bool
sink_unsynced(const struct worker *w)
{
	size_t i;

	for (i = 0; i < w->topo.nsinks; i++)
		if (syncs(&w->sinks[i]) &&
		    w->sinks[i].written > w->sinks[i].synced)
			return (true);
	return (false);
}

void
sink_sync(struct worker *w, struct sync_round *r)
{
	struct sync_file f = { 0 };
	struct sink *s;
	size_t i;

	for (i = 0; i < w->topo.nsinks; i++) {
		s = &w->sinks[i];
		if (!syncs(s) || s->written <= s->synced)
			continue;
		/* The sink may close its own meanwhile. */
		if ((f.fd = fcntl(s->fd, F_DUPFD_CLOEXEC, 3)) == -1)
			continue;	/* none is free: the next round */
		f.path = kind(s) == SINK_STDOUT ? "standard output" :
		    path_of(s);
		f.sink = i;
		f.written = s->written;
		r->file[r->nfiles++] = f;
	}
}

void
sink_synced(struct worker *w, size_t i, uint64_t written)
{
	struct sink *s = &w->sinks[i];

	if (written <= s->synced)
		return;
	s->synced = written;
	sink_trim(s, written);
}

/* Connections are gone; of a file only what was synced is sure. */
void
sink_lost(struct worker *w)
{
	struct outbox_sink *k;
	size_t i;

	for (i = 0; i < w->topo.nsinks; i++) {
		if (!w->sinks[i].mine)
			continue;
		k = outbox_sink(&w->sinks[i].box);
		k->conn = 0;
		k->resume = kept_from(&w->sinks[i]);
		if (w->sinks[i].committer != NULL) {
			committer_lost(&w->sinks[i]);
			continue;
		}
		k->cut = !planted("STABLE12");
	}
}

void
sink_distrust(struct worker *w)
{
	size_t i;

	for (i = 0; i < w->topo.nsinks; i++)
		if (syncs(&w->sinks[i]))
			outbox_sink(&w->sinks[i].box)->cut = 1;
}

/* The checkpoint that was just committed has the files as they are now,
 * unless one was opened since. */
void
sink_committed(struct worker *w)
{
	struct sink *s;
	size_t i;

	for (i = 0; w->machine && i < w->topo.nsinks; i++) {
		s = &w->sinks[i];
		if (s->mine && outbox_same_file(&s->box))
			outbox_sink(&s->box)->known = 1;
	}
}

/*
 * A pipe or terminal cannot tell what it took; the outbox notes it after each
 * small write, so that a kill in between repeats that one at most.
 */
static void
flush_pipe(struct sink *s)
{
	struct outbox_sink *k = outbox_sink(&s->box);
	struct iovec iov[IOVS];
	struct pollfd p = { s->fd, POLLOUT, 0 };
	size_t total;
	ssize_t n;
	int i, c;

	if (s->retry_ns != 0 && clock_mono_ns() < s->retry_ns)
		return;
	s->retry_ns = 0;
	for (i = 0; i < WRITES && outbox_used(&s->box) > 0; i++) {
		if (poll(&p, 1, 0) <= 0)
			return;
		c = gather(s, iov, PIPE_BUF, &total);
		if (total == 0)
			return;
		n = writev(s->fd, iov, c);
		if (n == -1 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n == -1) {
			file_failed(s, strerror(errno));
			return;
		}
		advance(s, (uint64_t)n);
		k->resume = s->written;
		sink_trim(s, s->written);
	}
}

void
sink_stdout(struct worker *w, uint32_t i, int fd)
{
	struct sink *s;
	struct stat st;
	struct err err;

	if (i >= w->topo.nsinks || !w->sinks[i].mine ||
	    w->sinks[i].fd != -1 || w->topo.sinks[i].kind != SINK_STDOUT) {
		close(fd);
		return;
	}
	s = &w->sinks[i];
	s->fd = fd;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
		if (open_file(s, &err) == -1)
			worker_fatal_err(w, &err);
		return;
	}
	s->pipe = true;
	sink_seek(s, outbox_sink(&s->box)->resume > kept_from(s) ?
	    outbox_sink(&s->box)->resume : kept_from(s));
}

/* --- all sinks --------------------------------------------------------- */

int
sink_open(struct worker *w, struct err *err)
{
	struct sink *s;
	size_t i;

	for (i = 0; i < w->topo.nsinks; i++) {
		s = &w->sinks[i];
		s->w = w;
		s->index = i;
		s->fd = -1;
		if (!s->mine)
			continue;
		if (kind(s) == SINK_FILE && open_file(s, err) == -1)
			return (-1);
		if (s->committer != NULL && committer_open(s, err) == -1)
			return (-1);
		if (kind(s) == SINK_KAFKA && kafka_sink_open(s, err) == -1)
			return (-1);
	}
	return (0);
}

bool
sink_flush(struct worker *w)
{
	static uint64_t settled, checked;
	uint64_t now = clock_mono_ns();
	bool due = now - settled > 1000000, rotated = now - checked >
	    1000000000;
	bool owing = false;
	struct sink *s;
	size_t i;

	if (due)
		settled = now;
	if (rotated)
		checked = now;
	for (i = 0; i < w->topo.nsinks && w->running; i++) {
		s = &w->sinks[i];
		if (!s->mine)
			continue;
		if (s->committer != NULL) {
			committer_flush(s);
			continue;
		}
		if (s->kafka != NULL) {
			kafka_sink_flush(s);
			continue;
		}
		if (kind(s) != SINK_TCP) {
			if (rotated)
				check_rotated(s);
			if (s->pipe)
				flush_pipe(s);
			else
				flush_file(s);
			continue;
		}
		if (s->fd == -1)
			sink_ask(s);
		else {
			flush_tcp(s);
			if (due)
				settle(s);
			owing |= s->fd != -1 && s->written >
			    kept_from(s);
		}
	}
	return (owing);
}

bool
sink_empty(const struct worker *w)
{
	size_t i;

	for (i = 0; i < w->topo.nsinks; i++)
		if (w->sinks[i].mine && outbox_used(&w->sinks[i].box) > 0)
			return (false);
	return (true);
}

/* On the disk with it; else the next start writes it again. */
static void
settle_file(struct sink *s)
{
	int r, error;

	FAULT_POINT(file_sync_before);
	r = fsync(s->fd);
	error = errno;
	FAULT_POINT(file_sync_after);
	/* EINVAL: a device, as /dev/null, which has no disk. */
	if (r == 0 || error == EINVAL) {
		sink_trim(s, s->written);
		return;
	}
	log_error("cannot sync, the next start goes back in the file "
	    "sink=\"%s\" why=\"%s\"", name(s), strerror(error));
	if (s->w->machine)
		outbox_sink(&s->box)->cut = 1;
}

/*
 * The stop: what a receiver's kernel has acknowledged is delivered, the rest
 * is kept for the next start; so what is still in our kernel's buffer must
 * not leave any more, hence the reset where something is.
 */
void
sink_finish(struct worker *w)
{
	struct sockaddr none = { .sa_family = AF_UNSPEC };
	struct outbox_sink *k;
	struct sink *s;
	uint64_t acked, accepted, n;
	struct err err;
	size_t i;

	for (i = 0; i < w->topo.nsinks; i++) {
		s = &w->sinks[i];
		if (!s->mine || s->fd == -1 || s->committer != NULL)
			continue;
		k = outbox_sink(&s->box);
		if (kind(s) != SINK_TCP) {
			if (s->pipe)
				flush_pipe(s);
			else {
				flush_file(s);
				settle_file(s);
			}
			k->resume = s->written > kept_from(s) ? s->written :
			    kept_from(s);
			continue;
		}
		settle(s);
		if (s->fd == -1)
			continue;	/* was lost just now */
		if (outbox_used(&s->box) > 0 &&
		    tcp_sent(s->fd, &acked, &accepted, &err) == 0) {
			(void)connect(s->fd, &none, sizeof(none));
			k->resume = record_start(s, k->conn_base + (acked -
			    k->baseline), s->written, &n);
			sink_trim(s, k->resume);
			log_warn("receiver did not take everything, the rest "
			    "is kept for the next start sink=\"%s\" bytes=%"
			    PRIu64 " may_be_repeated=%" PRIu64, name(s),
			    s->box.payload_tail - k->resume, n);
		} else
			k->resume = kept_from(s);
		k->conn = 0;
	}
	for (i = 0; i < w->topo.nsinks; i++)
		if (w->sinks[i].committer != NULL)
			committer_finish(&w->sinks[i]);
		else if (w->sinks[i].kafka != NULL)
			kafka_sink_finish(&w->sinks[i]);
		else if (w->sinks[i].mine && w->sinks[i].fd == -1)
			outbox_sink(&w->sinks[i].box)->resume =
			    outbox_sink(&w->sinks[i].box)->conn == 0 &&
			    outbox_sink(&w->sinks[i].box)->resume >
			    kept_from(&w->sinks[i]) ?
			    outbox_sink(&w->sinks[i].box)->resume :
			    kept_from(&w->sinks[i]);
}
