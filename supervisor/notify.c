/*
 * systemd's side of things: readiness, the watchdog, and the descriptor
 * store, where connections survive the supervisor.  Speaks the documented
 * datagram protocol itself.  Never blocks: what the socket does not take is
 * queued and tried again.
 */
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "supervisor/supervisor.h"

#define LISTEN_FIRST	3
#define NOTICES_MAX	(1 << 18)
#define AGAIN_S		0.01
#define FLUSH_MS	1000

struct notice {
	STAILQ_ENTRY(notice)	 link;
	int			 fd;	/* a duplicate, -1 */
	char			 text[];
};

/* --- sending ------------------------------------------------------------- */

static int
send_notice(struct supervisor *s, const char *text, int fd)
{
	union {
		struct cmsghdr	h;
		char		space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { (void *)(uintptr_t)text, strlen(text) };
	struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1,
	    .msg_name = &s->notify_addr, .msg_namelen = s->notify_len };

	if (fd != -1) {
		memset(&control, 0, sizeof(control));
		control.h.cmsg_len = CMSG_LEN(sizeof(fd));
		control.h.cmsg_level = SOL_SOCKET;
		control.h.cmsg_type = SCM_RIGHTS;
		memcpy(CMSG_DATA(&control.h), &fd, sizeof(fd));
		h.msg_control = &control;
		h.msg_controllen = sizeof(control);
	}
	while (sendmsg(s->notify_fd, &h, MSG_NOSIGNAL | MSG_DONTWAIT) == -1) {
		if (errno == EINTR)
			continue;
		if (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM ||
		    errno == ETOOMANYREFS)
			return (0);
		return (-1);
	}
	return (1);
}

static void
notice_free(struct supervisor *s, struct notice *n)
{
	STAILQ_REMOVE_HEAD(&s->notices, link);
	s->nnotices--;
	if (n->fd != -1)
		close(n->fd);
	free(n);
}

static void
flush(struct supervisor *s)
{
	static struct log_rate rate;
	struct notice *n;
	int r;

	while ((n = STAILQ_FIRST(&s->notices)) != NULL) {
		if ((r = send_notice(s, n->text, n->fd)) == 0)
			break;
		if (r == -1 && log_allowed(&rate))
			log_warn("cannot notify systemd: %s", strerror(errno));
		notice_free(s, n);
	}
	if (n != NULL)
		ev_timer_again(s->loop, &s->notify_again);
	else
		ev_timer_stop(s->loop, &s->notify_again);
}

static void
put(struct supervisor *s, const char *text, int fd)
{
	struct notice *n;

	if (s->notify_fd == -1)
		return;
	if (s->nnotices >= NOTICES_MAX) {
		log_error("systemd does not read its notifications");
		return;
	}
	n = xmalloc(sizeof(*n) + strlen(text) + 1);
	memcpy(n->text, text, strlen(text) + 1);
	n->fd = -1;
	/* Queued ones need a descriptor that lives as long. */
	if (fd != -1 && (n->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0)) == -1)
		log_error("cannot store a connection: %s", strerror(errno));
	STAILQ_INSERT_TAIL(&s->notices, n, link);
	s->nnotices++;
	flush(s);
}

void
notify_send(struct supervisor *s, const char *text)
{
	put(s, text, -1);
}

void
notify_store(struct supervisor *s, const char *name, int fd)
{
	char *text;

	if (s->notify_fd == -1)
		return;
	/* FDPOLL=0: a reset connection still has bytes to be read. */
	text = xasprintf("FDSTORE=1\nFDNAME=%s\nFDPOLL=0", name);
	FAULT_POINT(fd_store_before);
	put(s, text, fd);
	FAULT_POINT(fd_store_after);
	free(text);
}

void
notify_unstore(struct supervisor *s, const char *name)
{
	char *text;

	if (s->notify_fd == -1)
		return;
	text = xasprintf("FDSTOREREMOVE=1\nFDNAME=%s", name);
	put(s, text, -1);
	free(text);
}

void
notify_flush(struct supervisor *s)
{
	struct pollfd p = { s->notify_fd, POLLOUT, 0 };
	int i;

	for (i = 0; s->notify_fd != -1 && i < FLUSH_MS / 10; i++) {
		flush(s);
		if (STAILQ_EMPTY(&s->notices))
			return;
		(void)poll(&p, 0, 10);
	}
}

/* --- what came with the start -------------------------------------------- */

static uint64_t
env_number(const char *name)
{
	const char *v = getenv(name);
	char *end;
	unsigned long long n;

	if (v == NULL || v[0] < '0' || v[0] > '9')
		return (0);
	n = strtoull(v, &end, 10);
	return (*end == '\0' ? n : 0);
}

static void
take_listen_fds(struct supervisor *s)
{
	uint64_t n = env_number("LISTEN_FDS"), i;
	const char *names = getenv("LISTEN_FDNAMES");
	struct rlimit files;
	size_t len;

	/* More than can be open is no number of descriptors. */
	if (n == 0 || getrlimit(RLIMIT_NOFILE, &files) == -1 ||
	    n > files.rlim_cur || n > INT32_MAX / 2 ||
	    env_number("LISTEN_PID") != (uint64_t)getpid())
		return;
	s->inherited = xcalloc(n, sizeof(*s->inherited));
	for (i = 0; i < n; i++) {
		int fd = LISTEN_FIRST + (int)i;

		len = names == NULL ? 0 : strcspn(names, ":");
		s->inherited[i].name = xstrndup(names == NULL ? "" : names,
		    len);
		if (names != NULL)
			names += len + (names[len] == ':');
		s->inherited[i].fd = -1;
		if (fcntl(fd, F_SETFD, FD_CLOEXEC) == 0)
			s->inherited[i].fd = fd;
	}
	s->ninherited = n;
}

static void
open_socket(struct supervisor *s)
{
	struct sockaddr_un *sun = (struct sockaddr_un *)&s->notify_addr;
	const char *path = getenv("NOTIFY_SOCKET");
	size_t len;

	if (path == NULL || (path[0] != '/' && path[0] != '@'))
		return;
	len = strlen(path);
	if (len >= sizeof(sun->sun_path)) {
		log_warn("NOTIFY_SOCKET is too long");
		return;
	}
	sun->sun_family = AF_UNIX;
	memcpy(sun->sun_path, path, len);
	if (path[0] == '@')
		sun->sun_path[0] = '\0';
	s->notify_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) +
	    len);
	s->notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
}

static void
on_again(struct ev_loop *loop, ev_timer *t, int events)
{
	(void)loop;
	(void)events;
	flush(t->data);
}

static void
on_watchdog(struct ev_loop *loop, ev_timer *t, int events)
{
	struct supervisor *s = t->data;

	(void)loop;
	(void)events;
	notify_send(s, "WATCHDOG=1");
}

void
notify_init(struct supervisor *s)
{
	uint64_t pid = env_number("WATCHDOG_PID");

	STAILQ_INIT(&s->notices);
	s->notify_fd = -1;
	take_listen_fds(s);
	open_socket(s);
	if (pid == 0 || pid == (uint64_t)getpid())
		s->watchdog_us = env_number("WATCHDOG_USEC");
	/* Not for workers. */
	(void)unsetenv("NOTIFY_SOCKET");
	(void)unsetenv("WATCHDOG_USEC");
	(void)unsetenv("WATCHDOG_PID");
	(void)unsetenv("LISTEN_FDS");
	(void)unsetenv("LISTEN_PID");
	(void)unsetenv("LISTEN_FDNAMES");
}

void
notify_start(struct supervisor *s)
{
	double half = (double)s->watchdog_us / 2e6;

	ev_init(&s->notify_again, on_again);
	s->notify_again.repeat = AGAIN_S;
	s->notify_again.data = s;
	if (s->watchdog_us == 0 || s->notify_fd == -1)
		return;
	ev_timer_init(&s->watchdog, on_watchdog, 0, half);
	s->watchdog.data = s;
	ev_timer_start(s->loop, &s->watchdog);
}

/* --- connections that an earlier supervisor stored ----------------------- */

bool
notify_is_listener(const char *name)
{
	return (strncmp(name, "listen.", 7) == 0);
}

/* How far a receiver has got is in outboxes; without them a connection's
 * counters mean nothing. */
static bool
fits(const struct supervisor *s, const struct held *h)
{
	if (h->worker >= s->n)
		return (false);
	if (h->is_sink)
		return (h->index < s->topo.nsinks &&
		    sink_connects(&s->topo.sinks[h->index]) &&
		    s->conf.durability != CONF_NONE && !s->opt.accept_loss);
	return (h->index < s->topo.nsources &&
	    source_listens(&s->topo.sources[h->index]));
}

static bool
is_connection(int fd)
{
	int type = 0;
	socklen_t len = sizeof(type);
	struct sockaddr_storage ss;
	socklen_t sslen = sizeof(ss);

	return (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 &&
	    type == SOCK_STREAM && getsockname(fd, (struct sockaddr *)&ss,
	    &sslen) == 0 && (ss.ss_family == AF_INET ||
	    ss.ss_family == AF_INET6));
}

void
notify_adopt(struct supervisor *s)
{
	struct inherited *in;
	struct held h, *held;
	size_t i, n = 0, dropped = 0;

	for (i = 0; i < s->ninherited; i++) {
		in = &s->inherited[i];
		if (in->fd == -1 || hold_parse(in->name, &h) == -1)
			continue;
		if (fits(s, &h) && is_connection(in->fd) &&
		    hold_find(s, h.id) == NULL && (!h.is_sink ||
		    hold_sink(s, h.worker, h.index) == NULL)) {
			FAULT_POINT(fd_adopt_before);
			held = hold_take(s, h.is_sink, h.id, h.worker,
			    h.index, h.baseline, &in->fd, "");
			held->stored = true;
			FAULT_POINT(fd_adopt_after);
			n++;
			continue;
		}
		(void)shutdown(in->fd, SHUT_RDWR);
		close(in->fd);
		in->fd = -1;
		notify_unstore(s, in->name);
		dropped++;
	}
	if (n + dropped > 0)
		log_info("connections came back from the descriptor store "
		    "kept=%zu dropped=%zu", n, dropped);
}

void
notify_close_rest(struct supervisor *s)
{
	size_t i;

	for (i = 0; i < s->ninherited; i++) {
		if (s->inherited[i].fd != -1) {
			log_warn("a descriptor that came with the start is "
			    "of no use name=\"%s\"", s->inherited[i].name);
			close(s->inherited[i].fd);
		}
		free(s->inherited[i].name);
	}
	free(s->inherited);
	s->inherited = NULL;
	s->ninherited = 0;
}
