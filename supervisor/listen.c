/*
 * Clients and receivers: listening sockets, accepted connections, outgoing
 * connections.  All belong to the supervisor; workers get descriptors.
 */
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "supervisor/supervisor.h"

#define ACCEPT_MOST	16		/* per wake-up */
#define ACCEPT_AGAIN_S	0.5		/* after EMFILE and the like */
#define CONNECT_S	10.0

/* --- addresses ----------------------------------------------------------- */

void
address_text(const struct sockaddr *sa, socklen_t len, char *text, size_t room)
{
	char host[NI_MAXHOST], port[NI_MAXSERV];

	if (getnameinfo(sa, len, host, sizeof(host), port, sizeof(port),
	    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		(void)snprintf(text, room, "unknown");
	else
		(void)snprintf(text, room, strchr(host, ':') != NULL ?
		    "[%.40s]:%.5s" : "%.40s:%.5s", host, port);
}

int
address_look_up(const char *host, uint32_t port, int flags,
    struct addrinfo **res)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	char service[16];

	*res = NULL;
	hints.ai_flags = AI_NUMERICSERV | flags;
	(void)snprintf(service, sizeof(service), "%u", port);
	return (getaddrinfo(host[0] == '\0' || strcmp(host, "*") == 0 ? NULL :
	    host, service, &hints, res));
}

int
address_parse(const char *text, char **host, uint32_t *port, struct err *err)
{
	const char *colon = strrchr(text, ':'), *p;
	uint64_t n = 0;

	for (p = colon == NULL ? "" : colon + 1; *p >= '0' && *p <= '9' &&
	    n < 65536; p++)
		n = n * 10 + (uint64_t)(*p - '0');
	if (colon == NULL || *p != '\0' || n == 0 || n > 65535)
		return (err_set(err, ERR_CONFIG, "\"%s\" is no address: "
		    "HOST:PORT is, with a port from 1 to 65535", text));
	*port = (uint32_t)n;
	if (text[0] == '[' && colon > text + 1 && colon[-1] == ']')
		*host = xstrndup(text + 1, (size_t)(colon - text - 2));
	else
		*host = xstrndup(text, (size_t)(colon - text));
	return (0);
}

static void
set_options(int fd)
{
	int on = 1;

	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	/* An urgent byte would make the kernel's counters disagree with what
	 * was read. */
	(void)setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof(on));
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
}

/* --- accepting ----------------------------------------------------------- */

/* The worker with the fewest connections of this source; turns decide. */
static int
pick_worker(struct supervisor *s, uint32_t source)
{
	uint32_t limit = s->topo.sources[source].parallelism;
	uint32_t i, w, have, best = 0;
	int found = -1;

	/* Its streams are known to one worker, which has the right number. */
	if (s->topo.sources[source].kind == SOURCE_CONNECTOR) {
		w = source % s->n;
		return (hold_count(s, source, w) >= limit ||
		    s->child[w].state == CHILD_WAITING ? -1 : (int)w);
	}
	for (i = 0; i < s->n; i++) {
		w = (s->turn[source] + i) % s->n;
		have = hold_count(s, source, w);
		if ((limit != 0 && have >= limit) ||
		    s->child[w].state == CHILD_WAITING)
			continue;
		if (found == -1 || have < best) {
			found = (int)w;
			best = have;
		}
	}
	return (found);
}

static bool
may_accept(struct supervisor *s, uint32_t source)
{
	return (s->state == APP_RUNNING && !s->stopping && !s->transit &&
	    !ev_is_active(&s->accept_again) &&
	    hold_count_all(s, source) < (uint64_t)s->conf.connections &&
	    pick_worker(s, source) != -1);
}

void
listen_update(struct supervisor *s)
{
	struct listener *l;

	TAILQ_FOREACH(l, &s->listeners, link) {
		if (may_accept(s, l->source))
			ev_io_start(s->loop, &l->io);
		else
			ev_io_stop(s->loop, &l->io);
	}
}

/* false: no more for now. */
static bool
accept_one(struct listener *l)
{
	static struct log_rate rate;
	struct supervisor *s = l->s;
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	struct held *h;
	char remote[64];
	int fd, w;

	if (!may_accept(s, l->source)) {
		listen_update(s);
		return (false);
	}
	fd = accept4(l->fd, (struct sockaddr *)&ss, &len,
	    SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd == -1) {
		if (errno == EINTR || errno == ECONNABORTED)
			return (true);
		if (errno == EAGAIN)
			return (false);
		if (log_allowed(&rate))
			log_error("cannot accept a connection source=\"%s\": "
			    "%s", s->topo.sources[l->source].name,
			    strerror(errno));
		ev_timer_again(s->loop, &s->accept_again);
		listen_update(s);
		return (false);
	}
	FAULT_POINT(accept_before);
	set_options(fd);
	address_text((struct sockaddr *)&ss, len, remote, sizeof(remote));
	w = pick_worker(s, l->source);
	s->turn[l->source] = ((uint32_t)w + 1) % s->n;
	h = hold_take(s, false, 0, (uint32_t)w, l->source, 0, &fd, remote);
	FAULT_POINT(accept_after);
	log_debug("connection begins id=%" PRIu64 " worker=%d source=%u "
	    "remote=%s", h->id, w, l->source, remote);
	hold_send(h, s);
	return (true);
}

static void
on_accept(struct ev_loop *loop, ev_io *io, int events)
{
	int i;

	(void)loop;
	(void)events;
	for (i = 0; i < ACCEPT_MOST && accept_one(io->data); i++)
		;
}

static void
on_accept_again(struct ev_loop *loop, ev_timer *t, int events)
{
	struct supervisor *s = t->data;

	(void)events;
	ev_timer_stop(loop, t);
	listen_update(s);
}

/* --- listening ----------------------------------------------------------- */

static bool
same_address(const struct sockaddr *a, const struct sockaddr *b)
{
	const struct sockaddr_in *a4 = (const void *)a, *b4 = (const void *)b;
	const struct sockaddr_in6 *a6 = (const void *)a, *b6 = (const void *)b;

	if (a->sa_family != b->sa_family)
		return (false);
	if (a->sa_family == AF_INET)
		return (a4->sin_port == b4->sin_port &&
		    a4->sin_addr.s_addr == b4->sin_addr.s_addr);
	return (a->sa_family == AF_INET6 &&
	    a6->sin6_port == b6->sin6_port && memcmp(&a6->sin6_addr,
	    &b6->sin6_addr, sizeof(a6->sin6_addr)) == 0);
}

/* A socket of this address that came with the start. */
static int
find_inherited(struct supervisor *s, const struct sockaddr *sa, char **store)
{
	struct sockaddr_storage ss;
	struct inherited *in;
	socklen_t len;
	size_t i;
	int fd, listening;

	for (i = 0; i < s->ninherited; i++) {
		in = &s->inherited[i];
		len = sizeof(listening);
		if (in->fd == -1 || getsockopt(in->fd, SOL_SOCKET,
		    SO_ACCEPTCONN, &listening, &len) == -1 || !listening)
			continue;
		len = sizeof(ss);
		if (getsockname(in->fd, (struct sockaddr *)&ss, &len) == -1 ||
		    !same_address((struct sockaddr *)&ss, sa))
			continue;
		fd = in->fd;
		in->fd = -1;
		/* What systemd itself opened, it keeps itself. */
		*store = xstrdup(notify_is_listener(in->name) ? in->name : "");
		(void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
		return (fd);
	}
	return (-1);
}

int
address_listen(const struct addrinfo *ai, const char *what, struct err *err)
{
	char text[64];
	int fd, on = 1, error;

	fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
	    0);
	if (fd == -1)
		return (err_sys(err, ERR_SYSTEM, "%s: socket", what));
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (ai->ai_family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on,
		    sizeof(on));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) == 0 &&
	    listen(fd, SOMAXCONN) == 0)
		return (fd);
	error = errno;
	address_text(ai->ai_addr, ai->ai_addrlen, text, sizeof(text));
	errno = error;
	(void)err_sys(err, error == EACCES ? ERR_CONFIG : ERR_SYSTEM,
	    "%s: cannot listen on %s", what, text);
	close(fd);
	errno = error;
	return (-1);
}

static int
add_listener(struct supervisor *s, uint32_t source, const struct addrinfo *ai,
    const char *what, struct err *err)
{
	struct listener *l;
	char *store = NULL;
	int fd;

	if ((fd = find_inherited(s, ai->ai_addr, &store)) == -1 &&
	    (fd = address_listen(ai, what, err)) == -1)
		return (-1);
	l = xcalloc(1, sizeof(*l));
	l->s = s;
	l->source = source;
	l->fd = fd;
	l->store = store;
	ev_io_init(&l->io, on_accept, fd, EV_READ);
	l->io.data = l;
	TAILQ_INSERT_TAIL(&s->listeners, l, link);
	return (0);
}

/* Out of the store what is of no use, then in what is new: removing is by
 * name, and several may have one. */
static void
update_store(struct supervisor *s)
{
	struct inherited *in;
	struct listener *l;
	size_t i;

	for (i = 0; i < s->ninherited; i++) {
		in = &s->inherited[i];
		if (in->fd == -1 || !notify_is_listener(in->name))
			continue;
		close(in->fd);
		in->fd = -1;
		notify_unstore(s, in->name);
		TAILQ_FOREACH(l, &s->listeners, link)
			if (l->store != NULL &&
			    strcmp(l->store, in->name) == 0) {
				free(l->store);
				l->store = NULL;
			}
	}
	TAILQ_FOREACH(l, &s->listeners, link) {
		if (l->store != NULL)
			continue;
		l->store = xasprintf("listen.%u", l->source);
		notify_store(s, l->store, l->fd);
	}
}

/* One address in use is an error even if others are free. */
static int
open_source(struct supervisor *s, uint32_t i, struct err *err)
{
	const struct topo_source *src = &s->topo.sources[i];
	struct addrinfo *res, *ai;
	char *what = xasprintf("source \"%s\"", src->name);
	int opened = 0, r;

	r = address_look_up(src->host, src->port, AI_PASSIVE, &res);
	if (r != 0) {
		r = err_set(err, r == EAI_AGAIN ? ERR_SYSTEM : ERR_CONFIG,
		    "%s: cannot resolve \"%s\": %s", what, src->host,
		    gai_strerror(r));
		free(what);
		return (r);
	}
	for (ai = res; ai != NULL && r == 0; ai = ai->ai_next) {
		if (add_listener(s, i, ai, what, err) == 0)
			opened++;
		else if (errno == EADDRINUSE)
			r = -1;
	}
	freeaddrinfo(res);
	free(what);
	/* Not each family that a name has need be here. */
	return (r == 0 && opened > 0 ? 0 : -1);
}

static void
check_kernel(const struct supervisor *s)
{
	bool tcp = false;
	size_t i;

	for (i = 0; i < s->topo.nsources; i++)
		tcp |= s->topo.sources[i].kind == SOURCE_TCP;
	for (i = 0; i < s->topo.nsinks; i++)
		tcp |= s->topo.sinks[i].kind == SINK_TCP;
	if (tcp && s->conf.durability != CONF_NONE && !tcpcheck_exact())
		log_warn("this kernel's TCP counters cannot be trusted: what "
		    "a killed worker had read or sent on a connection is not "
		    "known exactly here");
}

int
listen_open(struct supervisor *s, struct err *err)
{
	struct listener *l;
	uint32_t i;

	for (i = 0; i < s->topo.nsources; i++)
		if (source_listens(&s->topo.sources[i]) &&
		    open_source(s, i, err) == -1)
			return (-1);
	update_store(s);
	check_kernel(s);
	TAILQ_FOREACH(l, &s->listeners, link) {
		const struct topo_source *src = &s->topo.sources[l->source];

		log_info("listening source=\"%s\" address=%s:%u", src->name,
		    src->host, src->port);
	}
	return (0);
}

void
listen_close(struct supervisor *s)
{
	struct listener *l;

	while ((l = TAILQ_FIRST(&s->listeners)) != NULL) {
		TAILQ_REMOVE(&s->listeners, l, link);
		ev_io_stop(s->loop, &l->io);
		close(l->fd);
		free(l->store);
		free(l);
	}
}

/* --- outgoing connections ------------------------------------------------ */

struct attempt {
	TAILQ_ENTRY(attempt)	 link;
	struct supervisor	*s;
	uint32_t		 worker;
	uint32_t		 sink;
	int			 fd;		/* -1 */
	bool			 looking;	/* a thread resolves */
	bool			 said;		/* the first failure */
	struct addrinfo		*res;		/* owned */
	struct addrinfo		*next;		/* to be tried */
	ev_io			 io;
	ev_timer		 timer;		/* retry, or too long */
};

/* A name that a thread resolves, for every attempt at that sink. */
struct lookup {
	struct lookup	*link;
	uint32_t	 sink;
	char		*host;
	uint32_t	 port;
	int		 error;
	struct addrinfo	*res;
};
static struct {
	pthread_mutex_t	 lock;
	struct lookup	*done;
	struct ev_loop	*loop;
	ev_async	*wake;
} resolver = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void try_next(struct attempt *);

static void
attempt_free(struct attempt *a)
{
	TAILQ_REMOVE(&a->s->attempts, a, link);
	ev_io_stop(a->s->loop, &a->io);
	ev_timer_stop(a->s->loop, &a->timer);
	if (a->fd != -1)
		close(a->fd);
	if (a->res != NULL)
		freeaddrinfo(a->res);
	free(a);
}

/* This round has failed; the next one begins with the name again. */
static void
attempt_failed(struct attempt *a, const char *why)
{
	const struct topo_sink *k = &a->s->topo.sinks[a->sink];

	log_at(a->said ? LOG_DEBUG : LOG_WARNING, "cannot connect, trying "
	    "again until it succeeds sink=\"%s\" address=%s:%u worker=%u: %s",
	    k->name, k->host, k->port, a->worker, why);
	a->said = true;
	if (a->res != NULL)
		freeaddrinfo(a->res);
	a->res = a->next = NULL;
	ev_timer_stop(a->s->loop, &a->timer);
	ev_timer_set(&a->timer, SUP_RETRY_S, 0);
	ev_timer_start(a->s->loop, &a->timer);
}

static void
address_failed(struct attempt *a, const char *why)
{
	ev_io_stop(a->s->loop, &a->io);
	ev_timer_stop(a->s->loop, &a->timer);
	if (a->fd != -1)
		close(a->fd);
	a->fd = -1;
	if (a->next != NULL)
		try_next(a);
	else
		attempt_failed(a, why);
}

/* Connecting to a port of our own range may connect a socket to itself. */
bool
address_is_self(int fd)
{
	struct sockaddr_storage a, b;
	socklen_t alen = sizeof(a), blen = sizeof(b);

	return (getsockname(fd, (struct sockaddr *)&a, &alen) == 0 &&
	    getpeername(fd, (struct sockaddr *)&b, &blen) == 0 &&
	    same_address((struct sockaddr *)&a, (struct sockaddr *)&b));
}

/* What the kernel's counters say before the first byte. */
static int
measure(int fd, uint64_t *baseline)
{
	struct tcp_info ti;
	socklen_t len = sizeof(ti);
	int unsent;

	memset(&ti, 0, sizeof(ti));
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &ti, &len) == -1 ||
	    ioctl(fd, SIOCOUTQ, &unsent) == -1)
		return (-1);
	*baseline = (uint64_t)ti.tcpi_bytes_acked + (uint64_t)unsent;
	return (0);
}

static void
connected(struct attempt *a)
{
	struct supervisor *s = a->s;
	const struct topo_sink *k = &s->topo.sinks[a->sink];
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	uint64_t baseline;
	struct held *h;
	char remote[64] = "unknown";

	if (address_is_self(a->fd)) {
		address_failed(a, "nobody listens there");
		return;
	}
	set_options(a->fd);
	if (measure(a->fd, &baseline) == -1) {
		address_failed(a, strerror(errno));
		return;
	}
	if (getpeername(a->fd, (struct sockaddr *)&ss, &len) == 0)
		address_text((struct sockaddr *)&ss, len, remote,
		    sizeof(remote));
	log_info("connected sink=\"%s\" address=%s worker=%u", k->name,
	    remote, a->worker);
	ev_io_stop(s->loop, &a->io);
	FAULT_POINT(connected_before);
	h = hold_take(s, true, 0, a->worker, a->sink, baseline, &a->fd,
	    remote);
	FAULT_POINT(connected_after);
	attempt_free(a);
	hold_send(h, s);
	machida_running(s);
}

static void
on_connected(struct ev_loop *loop, ev_io *io, int events)
{
	struct attempt *a = io->data;
	int error = 0;
	socklen_t len = sizeof(error);

	(void)loop;
	(void)events;
	if (getsockopt(a->fd, SOL_SOCKET, SO_ERROR, &error, &len) == -1)
		error = errno;
	if (error != 0)
		address_failed(a, strerror(error));
	else
		connected(a);
}

static void
try_next(struct attempt *a)
{
	struct addrinfo *ai = a->next;

	a->next = ai->ai_next;
	a->fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK |
	    SOCK_CLOEXEC, 0);
	if (a->fd == -1) {
		address_failed(a, strerror(errno));
		return;
	}
	if (connect(a->fd, ai->ai_addr, ai->ai_addrlen) == 0) {
		connected(a);
		return;
	}
	if (errno != EINPROGRESS) {
		address_failed(a, strerror(errno));
		return;
	}
	ev_io_set(&a->io, a->fd, EV_WRITE);
	ev_io_start(a->s->loop, &a->io);
	ev_timer_set(&a->timer, CONNECT_S, 0);
	ev_timer_start(a->s->loop, &a->timer);
}

static void *
resolve(void *arg)
{
	struct lookup *l = arg;

	l->error = address_look_up(l->host, l->port, AI_ADDRCONFIG, &l->res);
	(void)pthread_mutex_lock(&resolver.lock);
	l->link = resolver.done;
	resolver.done = l;
	ev_async_send(resolver.loop, resolver.wake);
	(void)pthread_mutex_unlock(&resolver.lock);
	return (NULL);
}

/* Each attempt frees its own list. */
static struct addrinfo *
copy_addresses(const struct addrinfo *from)
{
	char host[NI_MAXHOST], port[NI_MAXSERV];
	struct addrinfo *res = NULL, **end = &res, hints = { 0 };

	hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
	hints.ai_socktype = SOCK_STREAM;
	for (; from != NULL; from = from->ai_next) {
		if (getnameinfo(from->ai_addr, from->ai_addrlen, host,
		    sizeof(host), port, sizeof(port), NI_NUMERICHOST |
		    NI_NUMERICSERV) != 0 ||
		    getaddrinfo(host, port, &hints, end) != 0)
			continue;
		while (*end != NULL)
			end = &(*end)->ai_next;
	}
	return (res);
}

static void
lookup_done(struct supervisor *s, struct lookup *l)
{
	struct attempt *a, *next;

	TAILQ_FOREACH_SAFE(a, &s->attempts, link, next) {
		if (!a->looking || a->sink != l->sink)
			continue;
		a->looking = false;
		if (l->error == 0)
			a->res = a->next = copy_addresses(l->res);
		if (a->res == NULL)
			attempt_failed(a, l->error == 0 ? "no address" :
			    gai_strerror(l->error));
		else
			try_next(a);
	}
	if (l->res != NULL)
		freeaddrinfo(l->res);
	free(l->host);
	free(l);
}

static void
on_resolved(struct ev_loop *loop, ev_async *w, int events)
{
	struct lookup *l, *next;

	(void)loop;
	(void)events;
	(void)pthread_mutex_lock(&resolver.lock);
	l = resolver.done;
	resolver.done = NULL;
	(void)pthread_mutex_unlock(&resolver.lock);
	for (; l != NULL; l = next) {
		next = l->link;
		lookup_done(w->data, l);
	}
}

/* At most one thread per sink. */
static void
look_up_in_thread(struct attempt *a)
{
	const struct topo_sink *k = &a->s->topo.sinks[a->sink];
	struct attempt *other;
	struct lookup *l;
	pthread_attr_t attr;
	pthread_t thread;
	int r;

	TAILQ_FOREACH(other, &a->s->attempts, link)
		if (other->looking && other->sink == a->sink) {
			a->looking = true;
			return;
		}
	l = xcalloc(1, sizeof(*l));
	l->sink = a->sink;
	l->host = xstrdup(k->host);
	l->port = k->port;
	(void)pthread_attr_init(&attr);
	(void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	r = pthread_create(&thread, &attr, resolve, l);
	(void)pthread_attr_destroy(&attr);
	if (r == 0) {
		a->looking = true;
		return;
	}
	free(l->host);
	free(l);
	attempt_failed(a, strerror(r));
}

static void
attempt_begin(struct attempt *a)
{
	const struct topo_sink *k = &a->s->topo.sinks[a->sink];

	if (address_look_up(k->host, k->port, AI_NUMERICHOST, &a->res) != 0) {
		look_up_in_thread(a);
		return;
	}
	a->next = a->res;
	try_next(a);
}

static void
on_attempt_time(struct ev_loop *loop, ev_timer *t, int events)
{
	struct attempt *a = t->data;

	(void)loop;
	(void)events;
	if (a->fd != -1)
		address_failed(a, strerror(ETIMEDOUT));
	else
		attempt_begin(a);
}

void
listen_connect(struct child *c, uint32_t sink)
{
	struct supervisor *s = c->s;
	struct attempt *a;

	if (sink >= s->topo.nsinks || !sink_connects(&s->topo.sinks[sink]) ||
	    s->state == APP_KILLING || s->state == APP_ENDED)
		return;
	/* It is on its way already. */
	if (hold_sink(s, c->number, sink) != NULL)
		return;
	TAILQ_FOREACH(a, &s->attempts, link)
		if (a->worker == c->number && a->sink == sink)
			return;
	a = xcalloc(1, sizeof(*a));
	a->s = s;
	a->worker = c->number;
	a->sink = sink;
	a->fd = -1;
	ev_init(&a->io, on_connected);
	a->io.data = a;
	ev_init(&a->timer, on_attempt_time);
	a->timer.data = a;
	TAILQ_INSERT_TAIL(&s->attempts, a, link);
	attempt_begin(a);
}

void
listen_cancel(struct supervisor *s)
{
	struct attempt *a;

	while ((a = TAILQ_FIRST(&s->attempts)) != NULL)
		attempt_free(a);
}

void
listen_init(struct supervisor *s)
{
	TAILQ_INIT(&s->listeners);
	TAILQ_INIT(&s->attempts);
	ev_init(&s->accept_again, on_accept_again);
	s->accept_again.repeat = ACCEPT_AGAIN_S;
	s->accept_again.data = s;
	ev_async_init(&s->resolved, on_resolved);
	s->resolved.data = s;
	ev_async_start(s->loop, &s->resolved);
	resolver.loop = s->loop;
	resolver.wake = &s->resolved;
}
