/*
 * The supervisor's end of a worker's channel, and the channels between
 * workers that it hands out: what waits, what is replaced, what is dropped,
 * and who is killed for not reading.
 */
#include <sys/socket.h>
#include <sys/wait.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "common/mem.h"
#include "supervisor/supervisor.h"
#include "tests/unit/unit.h"

#define WORKERS	3
#define FIRST	1000000			/* numbers that fill() does not use */
#define SECOND	2000000

static struct supervisor s;
static int end_of[WORKERS];		/* the workers' ends, -1 */
static char logged[4000];

/* For the linker: -Wl,--wrap=socketpair. */
static bool no_descriptors;
int	__real_socketpair(int domain, int type, int protocol, int fd[2]);
int	__wrap_socketpair(int domain, int type, int protocol, int fd[2]);

int
__wrap_socketpair(int domain, int type, int protocol, int fd[2])
{
	if (!no_descriptors)
		return (__real_socketpair(domain, type, protocol, fd));
	errno = EMFILE;
	return (-1);
}

static void
on_log(int priority, const char *text, void *arg)
{
	(void)priority;
	(void)arg;
	(void)snprintf(logged + strlen(logged), sizeof(logged) -
	    strlen(logged), "%s\n", text);
}

static void
open_channel(uint32_t i)
{
	int fd[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC |
	    SOCK_NONBLOCK, 0, fd), 0);
	channel_open(&s.child[i], fd[0]);
	end_of[i] = fd[1];
	s.child[i].state = CHILD_RUNNING;
	s.child[i].serial = ++s.serial;
}

static void
on_wire(struct ev_loop *loop, ev_timer *t, int events)
{
	(void)loop;
	(void)t;
	(void)events;
	wire_retry(&s);
}

static void
begin(void)
{
	static char none[] = "";
	uint32_t i;

	memset(&s, 0, sizeof(s));
	logged[0] = '\0';
	log_sink(on_log, NULL);
	s.loop = ev_loop_new(EVFLAG_AUTO);
	ck_assert_ptr_nonnull(s.loop);
	s.n = WORKERS;
	s.notify_fd = -1;
	s.conf.cgroup = none;
	s.child = xcalloc(WORKERS, sizeof(*s.child));
	ev_init(&s.wire, on_wire);
	s.wire.repeat = 0.01;
	for (i = 0; i < WORKERS; i++) {
		child_init(&s.child[i], &s, CHILD_WORKER, i, WORKERS);
		open_channel(i);
	}
}

static void
end(void)
{
	uint32_t i;

	for (i = 0; i < WORKERS; i++) {
		channel_close(&s.child[i]);
		channel_close(&s.child[i]);	/* twice is once */
		if (end_of[i] != -1)
			close(end_of[i]);
		child_fini(&s.child[i]);
	}
	free(s.child);
	ev_loop_destroy(s.loop);
	log_sink(NULL, NULL);
}

/* A message that says its number. */
static void
put_number(struct buf *b, uint32_t n)
{
	struct msg_checkpoint m = { n };

	buf_clear(b);
	msg_put_checkpoint(b, &m);
}

static void
say(uint32_t worker, uint32_t n)
{
	struct buf b = { 0 };

	put_number(&b, n);
	channel_send(&s.child[worker], &b, -1);
	buf_fini(&b);
}

struct heard {
	uint64_t	number;		/* of a checkpoint message */
	uint32_t	peer;		/* of a peer message */
	uint64_t	generation;
	int		fd;		/* that came with it, -1 */
};

static int
on_checkpoint(void *arg, const struct msg_checkpoint *m, struct err *err)
{
	struct heard *h = arg;

	(void)err;
	h->number = m->id;
	return (0);
}

static int
on_peer(void *arg, const struct msg_peer *m, struct err *err)
{
	struct heard *h = arg;

	(void)err;
	h->peer = m->worker;
	h->generation = m->generation;
	return (0);
}

/* The next message, as the worker gets it; false: there is none. */
static bool
hear(uint32_t worker, struct heard *h)
{
	static const struct msg_handlers handlers = {
		.checkpoint = on_checkpoint, .peer = on_peer };
	char bytes[4096], control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { bytes, sizeof(bytes) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1,
	    .msg_control = control, .msg_controllen = sizeof(control) };
	struct err err;
	ssize_t n;

	memset(h, 0, sizeof(*h));
	h->fd = -1;
	n = recvmsg(end_of[worker], &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n <= 0)
		return (false);
	if (CMSG_FIRSTHDR(&m) != NULL)
		memcpy(&h->fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(int));
	ck_assert_msg(msg_dispatch(&handlers, h, FROM_SUP, slice_of(bytes +
	    MSG_HEADER, (size_t)n - MSG_HEADER), &err) == 0, "%s", err.text);
	return (true);
}

static void
turns(void)
{
	int i;

	for (i = 0; i < 4; i++)
		ev_run(s.loop, EVRUN_NOWAIT);
}

/* Until the socket takes no more; returns how many were said. */
static uint32_t
fill(uint32_t worker)
{
	uint32_t n = 0;

	while (s.child[worker].queued == 0)
		say(worker, n++);
	return (n);
}

/* --- sending -------------------------------------------------------------- */

START_TEST(test_in_order_whatever_waits)
{
	uint32_t i, n, got = 0;
	struct heard h;

	begin();
	n = fill(0);
	for (i = 0; i < 500; i++)
		say(0, n++);
	ck_assert_uint_eq(s.child[0].queued, 501);
	while (got < n) {
		while (hear(0, &h))
			ck_assert_uint_eq(h.number, got++);
		turns();
	}
	ck_assert_uint_eq(s.child[0].queued, 0);
	ck_assert(!hear(0, &h));
	end();
}
END_TEST

/* A worker that never reads; its neighbours are served. */
START_TEST(test_who_does_not_read_is_killed)
{
	struct buf b = { 0 };
	struct heard h;
	int status, fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	begin();
	s.child[0].pid = fork();
	ck_assert_int_ge(s.child[0].pid, 0);
	if (s.child[0].pid == 0)
		for (;;)
			(void)pause();
	(void)fill(0);
	while (s.child[0].queued > 0 && !s.child[0].guilty)
		say(0, 1);
	ck_assert(s.child[0].guilty);
	ck_assert_uint_eq(s.child[0].queued, 0);
	ck_assert_int_eq(waitpid(s.child[0].pid, &status, 0),
	    s.child[0].pid);
	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	ck_assert_ptr_nonnull(strstr(logged, "worker 0 has not read"));
	s.child[0].pid = 0;
	/* What was for it alone is closed, not kept. */
	(void)fill(0);
	while (s.child[0].queued < CHANNEL_MAX)
		say(0, 1);
	put_number(&b, 1);
	channel_send_peer(&s.child[0], &b, fd, 1);
	ck_assert_int_eq(fcntl(fd, F_GETFD), -1);
	buf_fini(&b);
	say(1, 5);
	ck_assert(hear(1, &h) && h.number == 5);
	end();
}
END_TEST

START_TEST(test_descriptors)
{
	struct buf b = { 0 };
	struct heard h;
	struct held *held;
	int fd, mine = open("/dev/null", O_RDONLY | O_CLOEXEC);

	begin();
	s.topo.nsources = 1;
	hold_init(&s);
	fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	held = hold_take(&s, false, 0, 0, 0, 0, &fd, "somewhere");
	ck_assert_ptr_nonnull(held);
	put_number(&b, 1);
	channel_send(&s.child[0], &b, mine);
	ck_assert(hear(0, &h) && h.fd != -1);
	close(h.fd);
	ck_assert_int_ne(fcntl(mine, F_GETFD), -1);	/* still ours */
	channel_send_held(&s.child[0], &b, held->id);
	ck_assert(hear(0, &h) && h.fd != -1);
	close(h.fd);
	/* One that is dropped before it could be sent is not missed. */
	(void)fill(0);
	channel_send_held(&s.child[0], &b, held->id + 1);
	say(0, FIRST);
	do {
		if (!hear(0, &h))
			turns();
		ck_assert_int_eq(h.fd, -1);
	} while (h.number != FIRST);
	/* No process: what it would own is closed. */
	channel_close(&s.child[0]);
	channel_send(&s.child[0], &b, mine);
	ck_assert_int_ne(fcntl(mine, F_GETFD), -1);
	channel_send_peer(&s.child[0], &b, mine, 1);
	ck_assert_int_eq(fcntl(mine, F_GETFD), -1);
	buf_fini(&b);
	hold_fini(&s);
	end();
}
END_TEST

/* Of the channels to a peer that died twice only the last one is of use. */
START_TEST(test_replaced_while_it_waits)
{
	struct buf b = { 0 };
	struct heard h;
	uint32_t n, seen = 0;
	int first, second;

	begin();
	n = fill(0);
	first = open("/dev/null", O_RDONLY | O_CLOEXEC);
	second = open("/dev/null", O_RDONLY | O_CLOEXEC);
	put_number(&b, FIRST);
	channel_send_peer(&s.child[0], &b, first, 1);
	put_number(&b, SECOND);
	channel_send_peer(&s.child[0], &b, second, 1);
	ck_assert_int_eq(fcntl(first, F_GETFD), -1);
	ck_assert_int_ne(fcntl(second, F_GETFD), -1);
	while (seen < n + 1) {
		while (hear(0, &h)) {
			ck_assert_uint_ne(h.number, FIRST);
			ck_assert_int_eq(h.fd != -1, h.number == SECOND);
			if (h.fd != -1)
				close(h.fd);
			seen++;
		}
		turns();
	}
	ck_assert_int_eq(fcntl(second, F_GETFD), -1);	/* it is there */
	buf_fini(&b);
	end();
}
END_TEST

START_TEST(test_workers_that_die)
{
	struct buf b = { 0 };

	begin();
	(void)fill(0);
	say(0, 1);
	close(end_of[0]);
	end_of[0] = -1;
	turns();
	ck_assert_uint_eq(s.child[0].queued, 0);
	say(0, 2);				/* nobody is told */
	ck_assert_uint_eq(s.child[0].queued, 0);
	ck_assert_str_eq(logged, "");
	/* Larger than any message may be: that is worth a word. */
	memset(buf_reserve(&b, 4 << 20), 0, 4 << 20);
	b.len = 4 << 20;
	channel_send(&s.child[1], &b, -1);
	ck_assert_ptr_nonnull(strstr(logged, "cannot send to worker 1: "
	    "Message too long"));
	ck_assert_uint_eq(s.child[1].queued, 0);
	buf_fini(&b);
	end();
}
END_TEST

/* --- what workers say ----------------------------------------------------- */

START_TEST(test_nonsense)
{
	struct msg_run run = { 0 };
	struct buf b = { 0 };

	begin();
	ck_assert_int_eq(send(end_of[0], "x", 1, 0), 1);
	turns();
	ck_assert(s.child[0].guilty);
	ck_assert_ptr_nonnull(strstr(logged, "worker 0 sent nonsense, "
	    "killing it: short message"));
	/* Nor what only a supervisor says. */
	msg_put_run(&b, &run);
	ck_assert_int_eq(send(end_of[1], b.data, b.len, 0), (ssize_t)b.len);
	turns();
	ck_assert(s.child[1].guilty);
	ck_assert(!s.child[2].guilty);
	buf_fini(&b);
	end();
}
END_TEST

/* --- between workers ------------------------------------------------------ */

/* Worker a's end of the channel to b. */
static int
wired(uint32_t a, uint32_t b, uint64_t generation)
{
	struct heard h;

	ck_assert(hear(a, &h));
	ck_assert_uint_eq(h.peer, b);
	ck_assert_uint_eq(h.generation, generation);
	ck_assert_int_ne(h.fd, -1);
	return (h.fd);
}

static void
connected(int a, int b)
{
	char c;

	ck_assert_int_eq(send(a, "x", 1, 0), 1);
	ck_assert_int_eq(recv(b, &c, 1, 0), 1);
	close(a);
	close(b);
}

START_TEST(test_pairs_of_workers)
{
	struct heard h;
	int a, b;

	begin();
	wire_child(&s.child[0]);
	a = wired(0, 1, 2);
	b = wired(1, 0, 2);
	connected(a, b);
	a = wired(0, 2, 3);
	b = wired(2, 0, 3);
	connected(a, b);
	wire_child(&s.child[0]);		/* they have each other */
	ck_assert(!hear(0, &h) && !hear(1, &h) && !hear(2, &h));
	/* Worker 1 is replaced; 2 has none yet. */
	channel_close(&s.child[1]);
	close(end_of[1]);
	s.child[2].state = CHILD_WAITING;
	open_channel(1);
	wire_child(&s.child[1]);
	a = wired(0, 1, 4);
	b = wired(1, 0, 4);
	connected(a, b);
	ck_assert(!hear(1, &h));
	end();
}
END_TEST

START_TEST(test_no_descriptors_for_pairs)
{
	struct heard h;
	int a, b;

	begin();
	no_descriptors = true;
	wire_child(&s.child[0]);
	no_descriptors = false;
	ck_assert(!hear(0, &h));
	ck_assert_msg(strstr(logged, "cannot connect workers 0 and 1, trying "
	    "again: Too many open files") != NULL, "%s", logged);
	ck_assert(ev_is_active(&s.wire));
	s.child[2].state = CHILD_WAITING;
	ev_run(s.loop, EVRUN_ONCE);		/* the timer */
	a = wired(0, 1, 2);
	b = wired(1, 0, 2);
	connected(a, b);
	ck_assert(!ev_is_active(&s.wire));
	end();
}
END_TEST

UNIT_MAIN("channel", test_in_order_whatever_waits,
    test_who_does_not_read_is_killed, test_descriptors,
    test_replaced_while_it_waits, test_workers_that_die, test_nonsense,
    test_pairs_of_workers, test_no_descriptors_for_pairs)
