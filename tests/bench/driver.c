/*
 * The other end of a TCP benchmark: sends lines "KEY DUE" to a source and
 * takes lines "KEY COUNT DUE" from sinks.  DUE is when the line should have
 * left (CLOCK_MONOTONIC, ns), whether the other side let it leave or not, and
 * a latency is what the clock says at the arrival, less DUE.
 *
 *	driver SINK-PORT SOURCE-PORT
 *
 * Connects to the source when a first command comes.  Commands on the
 * standard input, each answered by one line of JSON:
 *
 *	load KEYS			each key once, as fast as they go
 *	run KEYS RATE SECONDS WARMUP	open loop; warm-up, too, in seconds
 *	merged KEYS RATE SECONDS WARMUP	the same; there may be fewer outputs
 *	flood KEYS SECONDS		for so long as fast as they go
 *	kill KEYS RATE SECONDS PID	open loop; kill -9 in the middle
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "hist.h"

#define SINKS		16
#define LINE_SIZE	64
#define OUT_SIZE	(1 << 18)
#define IN_SIZE		(1 << 18)
#define PATIENCE	120	/* seconds without progress */
#define QUIET		2	/* after which no more outputs are expected */
#define SEC		1000000000ULL

struct sink {
	int	 fd;
	size_t	 len;
	char	 in[IN_SIZE];
};

/* What one command asks for, and how far it is. */
struct task {
	uint64_t	keys, rate, count, warmup;	/* rate 0: none */
	uint64_t	flood;			/* ns; 0: until count */
	bool		sequential, merged;
	pid_t		pid;
	uint64_t	kill_at, killed;	/* times; 0: none, not yet */
	uint64_t	begun, sent, received;
	uint64_t	last_output, progress;
	uint64_t	longest_gap, recovered;
	struct hist	latency, early, late, own;
};

static struct sink	*sinks[SINKS];
static int		 nsinks, listener, source = -1;
static char		 out[OUT_SIZE];
static size_t		 out_begin, out_end;
static uint64_t		 dice = 88172645463325252ULL;

static uint64_t
now_ns(void)
{
	struct timespec	ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ((uint64_t)ts.tv_sec * SEC + (uint64_t)ts.tv_nsec);
}

static uint64_t
roll(void)
{
	dice ^= dice << 13;
	dice ^= dice >> 7;
	dice ^= dice << 17;
	return (dice);
}

static void
listen_on(uint16_t port)
{
	struct sockaddr_in	sin = { .sin_family = AF_INET,
	    .sin_port = htons(port) };
	int			on = 1;

	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	listener = socket(AF_INET, SOCK_STREAM, 0);
	if (listener == -1 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR,
	    &on, sizeof(on)) == -1 || bind(listener, (struct sockaddr *)&sin,
	    sizeof(sin)) == -1 || listen(listener, SINKS) == -1)
		err(1, "port %u", port);
}

static void
connect_to(uint16_t port)
{
	struct sockaddr_in	sin = { .sin_family = AF_INET,
	    .sin_port = htons(port) };
	int			on = 1;

	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	source = socket(AF_INET, SOCK_STREAM, 0);
	if (source == -1 || connect(source, (struct sockaddr *)&sin,
	    sizeof(sin)) == -1 || setsockopt(source, IPPROTO_TCP, TCP_NODELAY,
	    &on, sizeof(on)) == -1)
		err(1, "connect to port %u", port);
}

static void
accept_sink(void)
{
	int	fd = accept(listener, NULL, NULL);

	if (fd == -1)
		err(1, "accept");
	if (nsinks == SINKS)
		errx(1, "more than %d connections of sinks", SINKS);
	if ((sinks[nsinks] = calloc(1, sizeof(struct sink))) == NULL)
		err(1, "memory");
	sinks[nsinks++]->fd = fd;
}

/* One output; the last word of its line is when its input was due. */
static void
take_line(struct task *t, const char *line, const char *end, uint64_t now)
{
	const char	*p = end;
	uint64_t	 due, latency;

	while (p > line && p[-1] != ' ')
		p--;
	due = strtoull(p, NULL, 10);
	if (due < t->begun || due > now + 3600 * SEC)
		errx(1, "an output that was not asked for: %.*s",
		    (int)(end - line), line);
	t->received++;
	if (t->killed != 0 && t->recovered == 0 && due > t->killed)
		t->recovered = now - t->killed;
	if (t->received <= t->warmup)
		return;
	latency = now > due ? now - due : 0;
	hist_add(&t->latency, latency);
	hist_add(t->received < t->warmup + (t->count - t->warmup) / 2 ?
	    &t->early : &t->late, latency);
}

static void
take(struct task *t, struct sink *s)
{
	char		*line, *end;
	ssize_t		 n;
	uint64_t	 now;

	n = recv(s->fd, s->in + s->len, IN_SIZE - s->len, MSG_DONTWAIT);
	if (n == -1 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0)
		errx(1, "a sink closed its connection");
	now = now_ns();
	if (t->received > t->warmup && now - t->last_output > t->longest_gap)
		t->longest_gap = now - t->last_output;
	t->last_output = t->progress = now;
	s->len += (size_t)n;
	line = s->in;
	while ((end = memchr(line, '\n', s->len - (size_t)(line - s->in)))
	    != NULL) {
		take_line(t, line, end, now);
		line = end + 1;
	}
	s->len -= (size_t)(line - s->in);
	memmove(s->in, line, s->len);
	if (s->len == IN_SIZE)
		errx(1, "an endless line");
}

static uint64_t
due_at(const struct task *t, uint64_t now)
{
	if (t->rate == 0)
		return (now);
	return (t->begun + t->sent / t->rate * SEC +
	    t->sent % t->rate * SEC / t->rate);
}

static bool
all_sent(struct task *t)
{
	if (t->flood != 0 && now_ns() - t->begun > t->flood) {
		t->flood = 0;
		t->count = t->sent;
	}
	return (t->sent == t->count);
}

/* What is due goes into the buffer, and as much of that as may leave. */
static void
send_due(struct task *t)
{
	uint64_t	now = now_ns(), due, key;
	ssize_t		n;

	if (out_begin == out_end)
		out_begin = out_end = 0;
	while (!all_sent(t) && out_end + LINE_SIZE <= OUT_SIZE &&
	    (due = due_at(t, now)) <= now) {
		key = (t->sequential ? t->sent : roll()) % t->keys;
		out_end += (size_t)snprintf(out + out_end, LINE_SIZE,
		    "k%llu %llu\n", (unsigned long long)key,
		    (unsigned long long)due);
		t->sent++;
		hist_add(&t->own, now - due);
	}
	if (out_begin == out_end)
		return;
	n = send(source, out + out_begin, out_end - out_begin,
	    MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n > 0) {
		out_begin += (size_t)n;
		t->progress = now;
	} else if (errno != EAGAIN && errno != EINTR)
		err(1, "send");
}

/* How long nothing is due. */
static struct timespec
pause_of(struct task *t)
{
	uint64_t	now = now_ns(), until = now + SEC / 10, due;

	if (!all_sent(t) && out_end + LINE_SIZE <= OUT_SIZE &&
	    (due = due_at(t, now)) < until)
		until = due;
	if (t->kill_at != 0 && t->killed == 0 && t->kill_at < until)
		until = t->kill_at;
	if (until < now)
		until = now;
	return ((struct timespec){ .tv_sec = (time_t)((until - now) / SEC),
	    .tv_nsec = (long)((until - now) % SEC) });
}

static void
wait_and_take(struct task *t)
{
	struct pollfd	fds[SINKS + 2];
	struct timespec	ts = pause_of(t);
	int		i, n = nsinks;

	for (i = 0; i < n; i++)
		fds[i] = (struct pollfd){ .fd = sinks[i]->fd,
		    .events = POLLIN };
	fds[n] = (struct pollfd){ .fd = listener, .events = POLLIN };
	fds[n + 1] = (struct pollfd){ .fd = source,
	    .events = out_begin < out_end ? POLLOUT : 0 };
	if (ppoll(fds, (nfds_t)n + 2, &ts, NULL) == -1) {
		if (errno == EINTR)
			return;
		err(1, "poll");
	}
	for (i = 0; i < n; i++)
		if (fds[i].revents != 0)
			take(t, sinks[i]);
	if (fds[n].revents != 0)
		accept_sink();
	if (fds[n + 1].revents & (POLLERR | POLLHUP))
		errx(1, "the source closed its connection");
}

static void
kill_when_due(struct task *t)
{
	if (t->kill_at == 0 || t->killed != 0 || now_ns() < t->kill_at)
		return;
	t->killed = now_ns();
	if (kill(t->pid, SIGKILL) == -1)
		err(1, "kill %ld", (long)t->pid);
}

static void
print_at(const char *name, const struct hist *h, uint64_t ppm)
{
	uint64_t	v = hist_at(h, ppm);

	if (v == 0)
		printf(", \"%s\": null", name);
	else
		printf(", \"%s\": %llu", name, (unsigned long long)v);
}

static void
print_task(const struct task *t, uint64_t ended)
{
	printf("{\"sent\": %llu, \"received\": %llu, \"seconds\": %.6f",
	    (unsigned long long)t->sent, (unsigned long long)t->received,
	    (double)(ended - t->begun) / 1e9);
	print_at("p50", &t->latency, 500000);
	print_at("p90", &t->latency, 900000);
	print_at("p99", &t->latency, 990000);
	print_at("p999", &t->latency, 999000);
	print_at("p9999", &t->latency, 999900);
	print_at("early", &t->early, 500000);
	print_at("late", &t->late, 500000);
	print_at("own", &t->own, 990000);
	printf(", \"max\": %llu, \"gap\": %llu, \"recovered\": %llu}\n",
	    (unsigned long long)t->latency.max,
	    (unsigned long long)t->longest_gap,
	    (unsigned long long)t->recovered);
	fflush(stdout);
}

static void
play(struct task *t)
{
	t->begun = t->progress = t->last_output = now_ns();
	if (t->pid != 0)
		t->kill_at = t->begun + t->count / t->rate * SEC / 2;
	while (!all_sent(t) || t->received < t->count) {
		if (t->merged && all_sent(t) &&
		    now_ns() - t->progress > QUIET * SEC)
			break;
		send_due(t);
		wait_and_take(t);
		kill_when_due(t);
		if (now_ns() - t->progress > PATIENCE * SEC)
			errx(1, "no progress for %d s: %llu sent, %llu "
			    "received", PATIENCE, (unsigned long long)t->sent,
			    (unsigned long long)t->received);
	}
	print_task(t, now_ns());
}

static void
command(struct task *t, const char *line)
{
	unsigned long long	keys, rate, seconds, last;
	char			word[8];

	memset(t, 0, sizeof(*t));
	if (sscanf(line, "load %llu", &keys) == 1) {
		t->keys = t->count = keys;
		t->sequential = true;
	} else if (sscanf(line, "%7[a-z] %llu %llu %llu %llu", word, &keys,
	    &rate, &seconds, &last) == 5 && rate != 0 &&
	    (strcmp(word, "run") == 0 || strcmp(word, "merged") == 0)) {
		t->merged = word[0] == 'm';
		t->keys = keys;
		t->rate = rate;
		t->count = (seconds + last) * rate;
		t->warmup = last * rate;
	} else if (sscanf(line, "flood %llu %llu", &keys, &seconds) == 2) {
		t->keys = keys;
		t->count = UINT64_MAX;
		t->flood = seconds * SEC;
	} else if (sscanf(line, "kill %llu %llu %llu %llu", &keys, &rate,
	    &seconds, &last) == 4 && rate != 0) {
		t->keys = keys;
		t->rate = rate;
		t->count = seconds * rate;
		t->pid = (pid_t)last;
	} else
		errx(1, "not a command: %s", line);
	if (t->keys == 0)
		errx(1, "no keys: %s", line);
	play(t);
}

int
main(int argc, char **argv)
{
	static struct task	task;
	char			line[128];

	if (argc != 3)
		errx(1, "usage: driver SINK-PORT SOURCE-PORT");
	prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
	listen_on((uint16_t)atoi(argv[1]));
	printf("listening\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin) != NULL) {
		if (source == -1)
			connect_to((uint16_t)atoi(argv[2]));
		command(&task, line);
	}
	return (0);
}
