/*
 * The channel to another worker, whose part is played here: what is said and
 * in which order, what is sent again and what is not, credit, and everything
 * that the other side may not say.
 */
#include <sys/socket.h>

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/mem.h"
#include "tests/unit/rig.h"
#include "tests/unit/unit.h"

#define OTHER	77			/* the other worker's lineage */

static char dir[64];
static struct worker w;
static struct err err;
static int other = -1;			/* its end of the channel */
static struct buf heard;		/* what came there, not yet read */

/* What was heard since the last look. */
static struct seen {
	uint32_t		 hellos, resumes, acks, credits, stables;
	struct msg_hello	 hello;
	struct msg_resume	 resume;
	struct msg_ack		 ack;
	struct msg_credit	 credit;
	struct msg_stable	 stable;
	uint32_t		 frames;
	uint64_t		 pos[64];
} seen;

#define SEEN(name, counter)						\
static int								\
on_##name(void *arg, const struct msg_##name *m, struct err *e)		\
{									\
	(void)arg;							\
	(void)e;							\
	seen.counter++;							\
	seen.name = *m;							\
	return (0);							\
}
SEEN(hello, hellos)
SEEN(resume, resumes)
SEEN(ack, acks)
SEEN(credit, credits)
SEEN(stable, stables)

static int
on_data(void *arg, const struct msg_data *d, struct err *e)
{
	(void)arg;
	(void)e;
	ck_assert_uint_eq(d->exchange, 0);
	seen.pos[seen.frames++ % 64] = d->pos;
	return (0);
}

static const struct msg_handlers handlers = { .hello = on_hello,
	.resume = on_resume, .ack = on_ack, .credit = on_credit,
	.stable = on_stable, .data = on_data };

static void
hear(void)
{
	struct slice s;
	ssize_t r;
	long n;

	do {
		r = recv(other, buf_reserve(&heard, 1 << 16), 1 << 16,
		    MSG_DONTWAIT);
		if (r > 0)
			heard.len += (size_t)r;
	} while (r > 0);
	s = buf_slice(&heard);
	while ((n = msg_frame(s, 1 << 20)) > 0) {
		ck_assert_msg(msg_dispatch(&handlers, NULL, FROM_PEER,
		    slice_of(s.data + MSG_HEADER, (size_t)n - MSG_HEADER),
		    &err) == 0, "%s", err.text);
		s.data += n;
		s.len -= (size_t)n;
	}
	ck_assert_int_eq(n, 0);
	buf_consume(&heard, heard.len - s.len);
}

/* Some turns of the loop, and what was heard in them. */
static void
turns(void)
{
	int i;

	memset(&seen, 0, sizeof(seen));
	for (i = 0; i < 8; i++) {
		ev_run(w.loop, EVRUN_NOWAIT);
		peer_flush(&w);
		if (other != -1)
			hear();
	}
}

static void
attach(void)
{
	int fd[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0,
	    fd), 0);
	if (other != -1)
		close(other);
	buf_clear(&heard);
	other = fd[1];
	peer_attach(&w, 1, fd[0]);
}

static void
make(bool machine)
{
	struct buf text = { 0 };

	rig_dir_make(dir, sizeof(dir));
	rig_make(&w, dir);
	if (machine)
		rig_machine(&w);
	ck_assert_int_eq(recover_open(&w, &text, &err), 0);
	buf_fini(&text);
	w.loop = ev_loop_new(EVFLAG_AUTO);
	ck_assert_ptr_nonnull(w.loop);
	w.running = true;
	attach();
}

static void
end(void)
{
	close(other);
	other = -1;
	turns();				/* it notices */
	ck_assert_int_eq(w.peers[1].fd, -1);
	ev_loop_destroy(w.loop);
	rig_free(&w);
	rig_dir_remove(dir);
	buf_fini(&heard);
}

/* --- what the other side says -------------------------------------------- */

static void
say_bytes(const void *p, size_t n)
{
	ck_assert_int_eq(send(other, p, n, MSG_NOSIGNAL), (ssize_t)n);
}

#define SAY(name, ...)							\
	do {								\
		struct buf b_ = { 0 };					\
		msg_put_##name(&b_, &(struct msg_##name){ __VA_ARGS__ });\
		say_bytes(b_.data, b_.len);				\
		buf_fini(&b_);						\
	} while (0)

static void
say_hello(uint64_t lineage)
{
	SAY(hello, MSG_PROTOCOL, 1, lineage, 1, 1);
}

static void
say_data(uint64_t pos, uint32_t index, const char *records)
{
	SAY(data, 0, pos, index, 1, msg_cstr(records));
}

/* Both have said everything that comes first. */
static void
greet(void)
{
	say_hello(OTHER);
	SAY(resume, 0, 0, 0, 0);
	SAY(credit, 0, 1 << 20);
	turns();
	ck_assert(seen.hellos == 1 && seen.resumes == 1);
}

/* As loop.c puts them: the wire's messages. */
static void
put_out(uint64_t pos, size_t len)
{
	char *records = xcalloc(1, len + 1);
	struct msg_data d = { 0, pos, 0, 1, slice_of(records, len) };
	struct frame f = { .pos = pos, .records = 1 };
	struct buf b = { 0 };

	msg_put_data(&b, &d);
	ck_assert_int_eq(outbox_reserve(&w.peer_box[1], b.len + 1000, &err),
	    0);
	outbox_append(&w.peer_box[1], &f, buf_slice(&b), NULL);
	buf_fini(&b);
	free(records);
}

/* --- greeting ------------------------------------------------------------ */

START_TEST(test_greeting)
{
	make(false);
	turns();
	ck_assert_uint_eq(seen.hellos, 1);
	ck_assert_uint_eq(seen.hello.protocol, MSG_PROTOCOL);
	ck_assert_uint_eq(seen.hello.worker, 0);
	ck_assert_uint_eq(seen.hello.lineage, w.lineage);
	ck_assert_uint_eq(seen.hello.exchanges, 1);
	/* Nothing else before the other side has said who it is. */
	put_out(0, 100);
	turns();
	ck_assert_uint_eq(seen.resumes + seen.credits + seen.frames, 0);
	say_hello(OTHER);
	turns();
	ck_assert_uint_eq(seen.resumes, 1);
	ck_assert_uint_eq(seen.resume.lineage, OTHER);
	ck_assert_uint_eq(seen.resume.pos, 0);
	ck_assert_uint_eq(seen.credits, 1);
	ck_assert_uint_eq(seen.credit.limit, w.window);
	/* Nor data before it has said where to go on, and how much. */
	ck_assert_uint_eq(seen.frames, 0);
	SAY(resume, 0, 0, 0, 0);
	turns();
	ck_assert_uint_eq(seen.frames, 0);
	SAY(credit, 0, 1 << 20);
	turns();
	ck_assert_uint_eq(seen.frames, 1);
	end();
}
END_TEST

/* Before `run` nothing may be journaled, so nothing is read; and the life may
 * still become another one. */
START_TEST(test_not_running)
{
	make(false);
	w.running = false;
	attach();
	say_hello(OTHER);
	turns();
	ck_assert_uint_eq(seen.hellos, 0);
	ck_assert(!w.peers[1].greeted);
	w.lineage++;
	w.running = true;
	peer_run(&w);				/* as control.c does */
	turns();
	ck_assert_uint_eq(seen.hellos, 1);
	ck_assert_uint_eq(seen.hello.lineage, w.lineage);
	ck_assert_uint_eq(seen.resumes, 1);
	end();
}
END_TEST

START_TEST(test_channels_that_nobody_has)
{
	int fd[2], i;

	make(false);
	for (i = 0; i < 2; i++) {
		ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
		peer_attach(&w, i == 0 ? 0 : 2, fd[0]);
		ck_assert_int_eq(fcntl(fd[0], F_GETFD), -1);	/* closed */
		close(fd[1]);
	}
	ck_assert_int_eq(w.peers[0].fd, -1);
	end();
}
END_TEST

/* --- what comes in ------------------------------------------------------- */

static struct entry *
entry_at(uint64_t pos, const char *records)
{
	struct entry *e = journal_at(&w.journal, pos);
	struct frame_head h;

	ck_assert_ptr_nonnull(e);
	ck_assert_uint_eq(e->type, ENTRY_FRAME);
	ck_assert_uint_eq(e->channel, 1 << 16);
	ck_assert_uint_eq(e->len, sizeof(h) + strlen(records));
	memcpy(&h, e->data, sizeof(h));
	ck_assert_uint_eq(h.lineage, OTHER);
	ck_assert_mem_eq(e->data + sizeof(h), records, strlen(records));
	return (e);
}

START_TEST(test_journaled_once)
{
	uint64_t tail;

	make(false);
	greet();
	say_data(100, 1, "first");
	say_data(100, 2, "second");
	turns();
	ck_assert_uint_eq(seen.acks, 1);
	ck_assert_uint_eq(seen.ack.pos, 100);
	ck_assert_uint_eq(seen.ack.index, 2);
	tail = journal_tail(&w.journal);
	ck_assert_uint_eq(entry_end(entry_at(entry_end(entry_at(0, "first")),
	    "second")), tail);
	ck_assert_uint_eq(w.pending[1], tail);
	ck_assert_uint_eq(w.pending_all, tail);
	/* Again, after a new connection: acknowledged, not journaled. */
	attach();
	say_hello(OTHER);
	turns();
	ck_assert_uint_eq(seen.resume.pos, 100);
	ck_assert_uint_eq(seen.resume.index, 2);
	say_data(99, 7, "older");
	say_data(100, 1, "first");
	say_data(100, 2, "second");
	turns();
	ck_assert_uint_eq(seen.acks, 1);
	ck_assert_uint_eq(journal_tail(&w.journal), tail);
	say_data(101, 0, "third");
	turns();
	ck_assert_uint_eq(entry_end(entry_at(tail, "third")),
	    journal_tail(&w.journal));
	end();
}
END_TEST

/* A frame that comes in pieces. */
START_TEST(test_pieces)
{
	struct msg_data d = { 0, 100, 1, 1, msg_cstr("in pieces") };
	struct buf b = { 0 };
	size_t i;

	make(false);
	greet();
	msg_put_data(&b, &d);
	for (i = 0; i < b.len; i++) {
		ck_assert_uint_eq(journal_tail(&w.journal), 0);
		say_bytes(b.data + i, 1);
		turns();
	}
	(void)entry_at(0, "in pieces");
	buf_fini(&b);
	end();
}
END_TEST

/* Credit follows what the journal has room for again. */
START_TEST(test_credit_for_others)
{
	char *records = xmalloc(1001);
	uint64_t limit, tail, pos = 0;

	memset(records, 'x', 1000);
	records[1000] = '\0';
	make(false);
	greet();
	ck_assert_uint_eq(seen.credit.limit, w.window);
	/* Half of the window and more: what is pending takes room. */
	while (w.pending[1] <= w.window * 3 / 4) {
		say_data(++pos, 0, records);
		turns();
	}
	limit = w.peers[1].x[0].granted;
	ck_assert_uint_lt(limit, w.window + w.window / 2);
	/* A checkpoint frees it. */
	w.a.entry = w.a.pos = tail = journal_tail(&w.journal);
	journal_release(&w.journal, tail);
	checkpoint_free(&w, tail);
	turns();
	ck_assert_uint_eq(seen.credits, 1);
	ck_assert_uint_eq(seen.credit.limit, w.peers[1].x[0].got + w.window);
	ck_assert_uint_gt(seen.credit.limit, limit);
	/* While later stages are behind, none is given. */
	w.conf.outbox_mark = 1;
	rig_frame(&w.sinks[0].box, tail, "waits");
	while (w.peers[1].x[0].got + w.window / 2 < seen.credit.limit) {
		struct msg_credit was = seen.credit;

		say_data(++pos, 0, records);
		turns();
		ck_assert_uint_eq(seen.credits, 0);
		seen.credit = was;
		w.a.entry = w.a.pos = journal_tail(&w.journal);
		journal_release(&w.journal, w.a.pos);
		checkpoint_free(&w, w.a.pos);
	}
	w.draining = true;			/* at a stop it is */
	turns();
	ck_assert_uint_eq(seen.credits, 1);
	free(records);
	end();
}
END_TEST

/* No credit at all is left when the window is full. */
START_TEST(test_a_full_window)
{
	make(false);
	w.pending[1] = w.window;
	say_hello(OTHER);
	turns();
	ck_assert_uint_eq(seen.resumes, 1);
	ck_assert_uint_eq(seen.credits, 0);
	w.pending[1] = 0;
	turns();
	ck_assert_uint_eq(seen.credits, 1);
	end();
}
END_TEST

/* --- what goes out ------------------------------------------------------- */

/* The journal's end is far enough for these stamps. */
static void
advance(uint64_t pos)
{
	while (journal_tail(&w.journal) < pos)
		rig_entry(&w.journal, "some bytes of a client");
	w.a.entry = w.a.pos = journal_tail(&w.journal);
	journal_release(&w.journal, w.a.pos);
}

START_TEST(test_sent_in_order_and_freed)
{
	uint64_t pos;

	make(false);
	advance(1000);
	for (pos = 1; pos <= 10; pos++)
		put_out(pos, 100);
	greet();
	ck_assert_uint_eq(seen.frames, 10);
	for (pos = 1; pos <= 10; pos++)
		ck_assert_uint_eq(seen.pos[pos - 1], pos);
	/* Kept until it is acknowledged. */
	ck_assert_uint_gt(outbox_used(&w.peer_box[1]), 0);
	SAY(ack, 0, 4, 0);
	turns();
	ck_assert_uint_eq(seen.frames, 0);
	/* A successor says what it has: from there on, nothing before. */
	attach();
	say_hello(OTHER);
	SAY(resume, 0, w.lineage, 7, 0);
	SAY(credit, 0, 1 << 20);
	turns();
	ck_assert_uint_eq(seen.frames, 3);
	ck_assert_uint_eq(seen.pos[0], 8);
	SAY(ack, 0, 10, 0);
	turns();
	ck_assert_uint_eq(outbox_used(&w.peer_box[1]), 0);
	end();
}
END_TEST

START_TEST(test_not_more_than_the_credit)
{
	uint64_t pos, charge;

	make(false);
	for (pos = 1; pos <= 10; pos++)
		put_out(pos, 100);
	charge = outbox_used(&w.peer_box[1]) / 10 - FRAME_HEADER +
	    FRAME_CHARGE;
	say_hello(OTHER);
	SAY(resume, 0, 0, 0, 0);
	SAY(credit, 0, 3 * charge + charge / 2);
	turns();
	ck_assert_uint_eq(seen.frames, 3);
	SAY(credit, 0, charge);			/* an older one */
	turns();
	ck_assert_uint_eq(seen.frames, 0);
	SAY(credit, 0, 5 * charge);
	turns();
	ck_assert_uint_eq(seen.frames, 2);
	/* It has what was not sent on this connection: not sent at all. */
	SAY(ack, 0, 8, 0);
	SAY(credit, 0, 20 * charge);
	turns();
	ck_assert_uint_eq(seen.frames, 2);
	ck_assert_uint_eq(seen.pos[0], 9);
	end();
}
END_TEST

/* Outputs that leave after a checkpoint wait for it. */
START_TEST(test_not_before_the_checkpoint)
{
	make(false);
	w.after_checkpoint = true;
	put_out(100, 100);
	put_out(200, 100);
	greet();
	ck_assert_uint_eq(seen.frames, 0);
	w.committed = 150;
	turns();
	ck_assert_uint_eq(seen.frames, 1);
	w.committed = 200;
	turns();
	ck_assert_uint_eq(seen.frames, 1);
	end();
}
END_TEST

/* More than the socket takes: it goes on when there is room. */
START_TEST(test_a_slow_reader)
{
	uint64_t pos;
	int i;

	make(false);
	w.conf.max_message = 1 << 20;
	for (pos = 1; pos <= 30; pos++)
		put_out(pos, 60000);
	say_hello(OTHER);
	SAY(resume, 0, 0, 0, 0);
	SAY(credit, 0, 100 << 20);
	for (i = 0; i < 8; i++) {		/* and nobody reads */
		ev_run(w.loop, EVRUN_NOWAIT);
		peer_flush(&w);
	}
	ck_assert(ev_is_active(&w.peers[1].wr));
	memset(&seen, 0, sizeof(seen));
	for (i = 0; i < 1000 && seen.frames < 30; i++) {
		hear();
		ev_run(w.loop, EVRUN_NOWAIT);	/* no flush: the watcher */
	}
	ck_assert_uint_eq(seen.frames, 30);
	for (pos = 1; pos <= 30; pos++)
		ck_assert_uint_eq(seen.pos[pos - 1], pos);
	ev_run(w.loop, EVRUN_NOWAIT);
	ck_assert(!ev_is_active(&w.peers[1].wr));
	end();
}
END_TEST

/* The other side goes away while something is to be sent. */
START_TEST(test_a_broken_channel)
{
	make(false);
	greet();
	close(other);
	other = -1;
	put_out(100, 100);
	peer_flush(&w);				/* before it could be read */
	ck_assert_int_eq(w.peers[1].fd, -1);
	ck_assert_uint_gt(outbox_used(&w.peer_box[1]), 0);
	advance(200);
	attach();
	greet();
	ck_assert_uint_eq(seen.frames, 1);
	end();
}
END_TEST

/* --- durability = machine ------------------------------------------------ */

static void
ignore(void *arg, uint32_t x, uint32_t from)
{
	(void)arg;
	(void)x;
	(void)from;
}

/* What a power loss could take is not acknowledged. */
START_TEST(test_acknowledged_when_safe)
{
	make(true);
	greet();
	SAY(stable, 100);
	say_data(100, 0, "first");
	say_data(200, 0, "second");
	turns();
	ck_assert_uint_eq(seen.acks, 0);
	ck_assert_uint_eq(seen.stables, 0);
	/* It is on the disk: and of the second that is all. */
	stable_synced(&w.stable, journal_tail(&w.journal));
	ck_assert(stable_scan(&w.stable, &w.journal, ignore, NULL));
	w.peers[1].x[0].ack = true;		/* as durable.c says then */
	turns();
	ck_assert_uint_eq(seen.acks, 1);
	ck_assert_uint_eq(seen.ack.pos, 100);
	ck_assert_uint_eq(seen.stables, 1);
	ck_assert_uint_eq(seen.stable.pos, w.stable.pos);
	ck_assert_uint_lt(w.stable.pos, journal_tail(&w.journal));
	SAY(stable, 200);
	turns();
	ck_assert(stable_scan(&w.stable, &w.journal, ignore, NULL));
	w.peers[1].x[0].ack = true;
	turns();
	ck_assert_uint_eq(seen.ack.pos, 200);
	ck_assert_uint_eq(seen.stable.pos, journal_tail(&w.journal));
	turns();				/* said once */
	ck_assert_uint_eq(seen.stables, 0);
	end();
}
END_TEST

/* What the other has journaled may be lost there: kept until it says so. */
START_TEST(test_resumed_is_not_yet_safe)
{
	make(true);
	advance(1000);
	put_out(100, 100);
	put_out(200, 100);
	say_hello(OTHER);
	SAY(resume, 0, w.lineage, 100, 0);
	SAY(credit, 0, 1 << 20);
	turns();
	ck_assert_uint_eq(seen.frames, 1);
	ck_assert_uint_eq(seen.pos[0], 200);
	ck_assert_uint_gt(outbox_used(&w.peer_box[1]), 300);
	SAY(ack, 0, 100, 0);
	turns();
	ck_assert_uint_lt(outbox_used(&w.peer_box[1]), 300);
	end();
}
END_TEST

/* --- other lives --------------------------------------------------------- */

/* A loss was accepted there: what it says from now on is something else, and
 * whoever comes after finds that in the journal. */
START_TEST(test_another_life_that_is_accepted)
{
	struct frame_head h;
	struct entry *e;
	uint64_t tail;

	make(false);
	greet();
	say_data(1000, 0, "old");
	turns();
	tail = journal_tail(&w.journal);
	w.flags |= START_ACCEPT_LOSS;
	attach();
	say_hello(OTHER + 1);
	SAY(resume, 0, w.lineage + 1, 1 << 30, 0);
	turns();
	ck_assert_uint_eq(seen.resume.lineage, OTHER + 1);
	ck_assert_uint_eq(seen.resume.pos, 0);
	e = journal_at(&w.journal, tail);
	ck_assert_ptr_nonnull(e);
	memcpy(&h, e->data, sizeof(h));
	ck_assert(e->type == ENTRY_FRAME && h.lineage == OTHER + 1 &&
	    h.records == 0);
	/* Positions begin anew. */
	say_data(10, 0, "new");
	turns();
	ck_assert_uint_eq(w.journaled[1].pos, 10);
	ck_assert_uint_eq(seen.acks, 1);
	end();
}
END_TEST

static void
greeted_with_past(void)
{
	make(false);
	greet();
	say_data(1000, 0, "old");
	turns();
	attach();
}

static void
another_life(void)
{
	greeted_with_past();
	say_hello(OTHER + 1);
}

static void
our_other_life(void)
{
	make(false);
	say_hello(OTHER);
	SAY(resume, 0, w.lineage + 1, 5, 0);
}

static void
our_older_copy(void)
{
	make(false);
	say_hello(OTHER);
	SAY(resume, 0, w.lineage, 5, 0);
}

/* --- what may not be said ------------------------------------------------ */

static void (*misdeed)(void);

static void
commit_it(void)
{
	misdeed();
	turns();
}

static void
ends(void (*how)(void), int code, const char *why)
{
	char said[600];
	int r;

	misdeed = how;
	rig_dir_make(dir, sizeof(dir));
	r = rig_child(commit_it, NULL, said, sizeof(said));
	rig_dir_remove(dir);
	ck_assert_msg(r == code && strstr(said, why) != NULL, "%d: %s", r,
	    said);
}

START_TEST(test_refused_lives)
{
	ends(another_life, 100, "worker 1 is of another life than the one "
	    "whose messages are here (exchange 0, up to position 1000)");
	ends(our_other_life, 100, "worker 1 knows another life of this "
	    "worker (exchange 0, up to position 5)");
	ends(our_older_copy, 100, "worker 1 has messages of this worker up to "
	    "position 5, but the journal here ends at 0: the files of this "
	    "worker are an older copy");
}
END_TEST

static void
other_protocol(void)
{
	make(false);
	SAY(hello, MSG_PROTOCOL + 1, 1, OTHER, 1, 1);
}

static void
other_worker(void)
{
	make(false);
	SAY(hello, MSG_PROTOCOL, 0, OTHER, 1, 1);
}

static void
other_pipeline(void)
{
	make(false);
	SAY(hello, MSG_PROTOCOL, 1, OTHER, 1, 2);
}

static void
hello_twice(void)
{
	make(false);
	greet();
	say_hello(OTHER);
}

static void
data_first(void)
{
	make(false);
	say_data(1, 0, "x");
}

static void
no_such_exchange(void)
{
	make(false);
	greet();
	SAY(data, 1, 1, 0, 1, msg_cstr("x"));
}

static void
resume_of_none(void)
{
	make(false);
	greet();
	SAY(resume, 1, 0, 0, 0);
}

static void
ack_of_none(void)
{
	make(false);
	greet();
	SAY(ack, 1, 0, 0);
}

static void
credit_for_none(void)
{
	make(false);
	greet();
	SAY(credit, 1, 0);
}

static void
stable_first(void)
{
	make(true);
	SAY(stable, 5);
}

static void
stable_elsewhere(void)
{
	make(false);
	greet();
	SAY(stable, 5);
}

static void
large_frame(void)
{
	make(false);
	greet();
	say_bytes("\1\0\0\0", 4);
}

static void
no_frame(void)
{
	make(false);
	greet();
	say_bytes("\0\0\0\1\300", 5);
}

static void
more_than_credit(void)
{
	make(false);
	greet();
	while (journal_used(&w.journal) + entry_size(200) < w.journal.size) {
		(void)journal_stage(&w.journal, ENTRY_BYTES, 1, 0, 100, 0);
		journal_publish(&w.journal, 100);
	}
	SAY(data, 0, 1, 0, 1, slice_of(w.journal.ring, 400));
}

START_TEST(test_what_may_not_be_said)
{
	ends(other_protocol, 111, "worker 1 says hello as worker 1, protocol "
	    "2");
	ends(other_worker, 111, "says hello as worker 0");
	ends(other_pipeline, 111, "2 exchanges");
	ends(hello_twice, 111, "says hello");
	ends(data_first, 111, "sends data before its hello");
	ends(no_such_exchange, 111, "or of exchange 1");
	ends(resume_of_none, 111, "resumes exchange 1: there is none");
	ends(ack_of_none, 111, "acknowledges exchange 1: there is none");
	ends(credit_for_none, 111, "gives credit for exchange 1");
	ends(stable_first, 111, "before its hello");
	ends(stable_elsewhere, 111, "with another durability");
	ends(large_frame, 111, "sends a frame larger than");
	ends(no_frame, 111, "malformed message head");
	ends(more_than_credit, 111, "sends more than its credit");
}
END_TEST

UNIT_MAIN("peer", test_greeting, test_not_running,
    test_channels_that_nobody_has, test_journaled_once, test_pieces,
    test_credit_for_others, test_a_full_window, test_sent_in_order_and_freed,
    test_not_more_than_the_credit, test_not_before_the_checkpoint,
    test_a_slow_reader, test_a_broken_channel, test_acknowledged_when_safe,
    test_resumed_is_not_yet_safe, test_another_life_that_is_accepted,
    test_refused_lives, test_what_may_not_be_said)
