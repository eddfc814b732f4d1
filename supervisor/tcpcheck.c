/*
 * Exact positions on plain TCP rest on counters of the kernel.  Emulations of
 * one may have others, so they are tried over loopback before anything
 * relies on them; where they are wrong the log says so.
 */
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "supervisor/supervisor.h"

#define SENT		1000
#define READ		400
#define WAIT_MS		1000

struct pair {
	int	listener;
	int	client;
	int	server;
};

static int
open_pair(struct pair *p)
{
	struct sockaddr_in sin = { .sin_family = AF_INET };
	socklen_t len = sizeof(sin);

	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	p->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (p->listener == -1 || bind(p->listener, (struct sockaddr *)&sin,
	    sizeof(sin)) == -1 || listen(p->listener, 1) == -1 ||
	    getsockname(p->listener, (struct sockaddr *)&sin, &len) == -1)
		return (-1);
	p->client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (p->client == -1 || connect(p->client, (struct sockaddr *)&sin,
	    sizeof(sin)) == -1)
		return (-1);
	p->server = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC);
	return (p->server == -1 ? -1 : 0);
}

static void
close_pair(struct pair *p)
{
	if (p->listener != -1)
		close(p->listener);
	if (p->client != -1)
		close(p->client);
	if (p->server != -1)
		close(p->server);
}

static int
counters(int fd, unsigned long request, uint64_t *received, uint64_t *acked,
    uint64_t *queued)
{
	struct tcp_info ti;
	socklen_t len = sizeof(ti);
	int n;

	memset(&ti, 0, sizeof(ti));
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &ti, &len) == -1 ||
	    ioctl(fd, request, &n) == -1)
		return (-1);
	*received = ti.tcpi_bytes_received;
	*acked = ti.tcpi_bytes_acked;
	*queued = (uint64_t)n;
	return (0);
}

/* The reader has consumed READ of SENT bytes, and a FIN counts as one. */
static bool
reader_is_right(const struct pair *p, uint64_t fin)
{
	uint64_t received, acked, queued;

	return (counters(p->server, SIOCINQ, &received, &acked, &queued) ==
	    0 && received == SENT + fin && received - fin - queued == READ);
}

static bool
writer_is_right(const struct pair *p, uint64_t baseline)
{
	uint64_t received, acked, queued;

	return (counters(p->client, SIOCOUTQ, &received, &acked, &queued) ==
	    0 && acked + queued - baseline == SENT);
}

static bool
is_right(struct pair *p)
{
	struct pollfd hup = { p->server, POLLRDHUP, 0 };
	uint64_t received, acked, queued;
	char data[SENT] = "";

	if (counters(p->client, SIOCOUTQ, &received, &acked, &queued) == -1 ||
	    send(p->client, data, SENT, MSG_NOSIGNAL) != SENT ||
	    !writer_is_right(p, acked + queued) ||
	    recv(p->server, data, READ, MSG_WAITALL) != READ ||
	    !reader_is_right(p, 0))
		return (false);
	return (shutdown(p->client, SHUT_WR) == 0 &&
	    poll(&hup, 1, WAIT_MS) == 1 && reader_is_right(p, 1));
}

bool
tcpcheck_exact(void)
{
	struct pair p = { -1, -1, -1 };
	bool right;

	/* No loopback, no evidence against it. */
	right = open_pair(&p) == -1 || is_right(&p);
	close_pair(&p);
	return (right);
}
