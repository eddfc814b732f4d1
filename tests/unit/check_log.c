/* common/log.c */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "tests/unit/unit.h"

#define MANY	100

static struct buf lines[MANY];
static int priorities[MANY];
static size_t nlines;

static void
keep(int priority, const char *line, void *arg)
{
	ck_assert_str_eq(arg, "arg");
	ck_assert_uint_lt(nlines, MANY);
	buf_init(&lines[nlines]);
	buf_addf(&lines[nlines], "%s", line);
	priorities[nlines++] = priority;
}

static void
begin(void)
{
	static char arg[] = "arg";

	log_sink(keep, arg);
}

static void
end(void)
{
	log_sink(NULL, NULL);
	while (nlines > 0)
		buf_fini(&lines[--nlines]);
}

static const char *
line(size_t i)
{
	ck_assert_uint_lt(i, nlines);
	return (buf_str(&lines[i]));
}

START_TEST(test_levels)
{
	log_init("worker-3", LOG_WARNING);
	begin();
	log_error("e %d", 1);
	log_warn("w");
	log_info("i");
	log_debug("d");
	log_at(LOG_CRIT, "c");
	ck_assert_uint_eq(nlines, 3);
	ck_assert_str_eq(line(0), "worker-3: e 1");
	ck_assert_int_eq(priorities[0], LOG_ERR);
	ck_assert_str_eq(line(1), "worker-3: w");
	ck_assert_int_eq(priorities[1], LOG_WARNING);
	ck_assert_str_eq(line(2), "worker-3: c");
	log_level(LOG_DEBUG);
	log_debug("d");
	log_info("i");
	ck_assert_uint_eq(nlines, 5);
	ck_assert_int_eq(priorities[3], LOG_DEBUG);
	ck_assert_int_eq(priorities[4], LOG_INFO);
	end();
}
END_TEST

START_TEST(test_newlines)
{
	log_init("r", LOG_INFO);
	begin();
	log_info("a\nb\n\nc\n");
	ck_assert_uint_eq(nlines, 4);
	ck_assert_str_eq(line(0), "r: a");
	ck_assert_str_eq(line(1), "r: b");
	ck_assert_str_eq(line(2), "r: ");
	ck_assert_str_eq(line(3), "r: c");
	log_info("%s", "");
	ck_assert_uint_eq(nlines, 5);
	ck_assert_str_eq(line(4), "r: ");
	end();
}
END_TEST

START_TEST(test_control_characters)
{
	log_init("r", LOG_INFO);
	begin();
	log_info("a\033[31m\rb\tc\177 \303\244");
	ck_assert_str_eq(line(0), "r: a?[31m?b\tc? \303\244");
	end();
}
END_TEST

START_TEST(test_long)
{
	char text[3 * LOG_LINE];

	log_init("r", LOG_INFO);
	begin();
	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	log_info("%s", text);
	ck_assert_uint_eq(nlines, 1);
	ck_assert_uint_eq(strlen(line(0)), LOG_LINE - 1);
	/* not inside a character of two bytes, at either parity */
	for (size_t shift = 0; shift < 2; shift++) {
		for (size_t i = shift; i + 1 < sizeof(text); i += 2)
			memcpy(text + i, "\303\244", 2);
		text[sizeof(text) - 1] = '\0';
		log_info("%s", text);
		ck_assert_int_eq(line(1 + shift)[strlen(line(1 + shift)) - 1],
		    '\244');
	}
	end();
}
END_TEST

START_TEST(test_errno_kept)
{
	log_init("r", LOG_INFO);
	begin();
	errno = ENOSPC;
	log_info("x");
	ck_assert_int_eq(errno, ENOSPC);
	end();
}
END_TEST

/* stderr becomes a pipe; what was written comes back. */
static size_t
capture(void (*fn)(void), char *out, size_t room)
{
	int fds[2], old;
	ssize_t n;

	ck_assert_int_eq(pipe(fds), 0);
	old = dup(STDERR_FILENO);
	ck_assert_int_ne(dup2(fds[1], STDERR_FILENO), -1);
	close(fds[1]);
	fn();
	ck_assert_int_ne(dup2(old, STDERR_FILENO), -1);
	close(old);
	n = read(fds[0], out, room - 1);
	close(fds[0]);
	ck_assert_int_ge(n, 0);
	out[n] = '\0';
	return ((size_t)n);
}

static void
say(void)
{
	log_init("supervisor", LOG_DEBUG);
	log_error("one");
	log_debug("two\nthree");
}

START_TEST(test_stderr)
{
	char out[1000];

	(void)capture(say, out, sizeof(out));
	ck_assert_str_eq(out, "<3>supervisor: one\n<7>supervisor: two\n"
	    "<7>supervisor: three\n");
}
END_TEST

/* A reader that is gone or behind does not stop the program. */
static void
say_much(void)
{
	log_init("r", LOG_INFO);
	ck_assert_int_ne(fcntl(STDERR_FILENO, F_SETFL, O_NONBLOCK), -1);
	ck_assert_int_ne(fcntl(STDERR_FILENO, F_SETPIPE_SZ, 4096), -1);
	for (int i = 0; i < 3; i++)
		log_info("%01500d", i);
}

START_TEST(test_full)
{
	char out[10000];
	uint64_t before = clock_mono_ns();

	ck_assert_uint_ge(capture(say_much, out, sizeof(out)), 3000);
	ck_assert_uint_lt(clock_mono_ns() - before, 5000000000);
}
END_TEST

static void
say_to_nobody(void)
{
	int fds[2];

	(void)signal(SIGPIPE, SIG_IGN);
	ck_assert_int_eq(pipe(fds), 0);
	close(fds[0]);
	ck_assert_int_ne(dup2(fds[1], STDERR_FILENO), -1);
	close(fds[1]);
	log_init("r", LOG_INFO);
	log_info("x");
}

START_TEST(test_gone)
{
	char out[10];

	ck_assert_uint_eq(capture(say_to_nobody, out, sizeof(out)), 0);
}
END_TEST

/* Lines of several threads are never mixed. */
static void *
talker(void *arg)
{
	for (int i = 0; i < 20; i++)
		log_info("%s%s", (const char *)arg, (const char *)arg);
	return (NULL);
}

static void
say_at_once(void)
{
	static char text[4][65];
	pthread_t t[4];

	log_init("r", LOG_INFO);
	for (int i = 0; i < 4; i++) {
		memset(text[i], 'a' + i, 64);
		ck_assert_int_eq(pthread_create(&t[i], NULL, talker, text[i]),
		    0);
	}
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(pthread_join(t[i], NULL), 0);
}

START_TEST(test_threads)
{
	static char out[32768];
	char *p, *next;
	size_t n = 0;

	(void)capture(say_at_once, out, sizeof(out));
	for (p = out; *p != '\0'; p = next + 1, n++) {
		next = strchr(p, '\n');
		ck_assert_ptr_nonnull(next);
		ck_assert_int_eq(next - p, 6 + 128);
		ck_assert_int_eq(strncmp(p, "<6>r: ", 6), 0);
		for (char *q = p + 6; q < next; q++)
			ck_assert_int_eq(*q, p[6]);
	}
	ck_assert_uint_eq(n, 80);
}
END_TEST

/* Begin of a second, so that a test of a few microseconds lies in one. */
static void
new_second(void)
{
	struct timespec ts = { 0, 0 };

	ts.tv_nsec = (long)(1000000000 - clock_mono_ns() % 1000000000);
	if (ts.tv_nsec == 1000000000)
		return;
	(void)nanosleep(&ts, NULL);
}

START_TEST(test_rate)
{
	static struct log_rate rate;
	int allowed = 0;

	log_init("r", LOG_INFO);
	begin();
	new_second();
	for (int i = 0; i < 35; i++)
		if (log_allowed(&rate)) {
			allowed++;
			log_warn("x");
		}
	ck_assert_int_eq(allowed, 10);
	ck_assert_uint_eq(nlines, 10);
	new_second();
	ck_assert(log_allowed(&rate));
	ck_assert_uint_eq(nlines, 11);
	ck_assert_ptr_nonnull(strstr(line(10), "suppressed=25"));
	ck_assert(log_allowed(&rate));		/* said once */
	ck_assert_uint_eq(nlines, 11);
	for (int i = 0; i < 8; i++)
		ck_assert(log_allowed(&rate));
	ck_assert(!log_allowed(&rate));
	end();
}
END_TEST

UNIT_MAIN("log", test_levels, test_newlines, test_control_characters,
    test_long, test_errno_kept, test_stderr, test_full, test_gone,
    test_threads, test_rate)
