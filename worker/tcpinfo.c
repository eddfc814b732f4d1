/*
 * Exact positions on plain TCP, asked of the kernel (Linux: tcp_info's
 * 64-bit counters, of which bytes_received counts the peer's FIN as one).
 * Valid because a duplicate of the connection outlives the worker.
 */
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>

#include "worker/worker.h"

/* <netinet/tcp.h> has an older struct and cannot be included beside. */
#define TCP_STATE_TIME_WAIT	6
#define TCP_STATE_CLOSE		7
#define TCP_STATE_CLOSE_WAIT	8
#define TCP_STATE_LAST_ACK	9
#define TCP_STATE_CLOSING	11

static int
info(int fd, struct tcp_info *ti, struct err *err)
{
	socklen_t len = sizeof(*ti);

	memset(ti, 0, sizeof(*ti));
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, ti, &len) == -1)
		return (err_sys(err, ERR_SYSTEM, "TCP_INFO"));
	return (0);
}

/*
 * Bytes that were read from this socket.  *uncertain: the connection is reset
 * and it cannot be told whether a FIN came first, so it may be one less.
 */
int
tcp_consumed(int fd, uint64_t *consumed, bool *uncertain, struct err *err)
{
	struct tcp_info a, b;
	int unread, soerr = 0, tries;
	socklen_t len = sizeof(soerr);

	*uncertain = false;
	for (tries = 0; tries < 1000; tries++) {
		if (info(fd, &a, err) == -1)
			return (-1);
		if (ioctl(fd, SIOCINQ, &unread) == -1)
			return (err_sys(err, ERR_SYSTEM, "SIOCINQ"));
		if (info(fd, &b, err) == -1)
			return (-1);
		if (a.tcpi_bytes_received == b.tcpi_bytes_received &&
		    a.tcpi_state == b.tcpi_state)
			break;
	}
	*consumed = b.tcpi_bytes_received - (unsigned int)unread;
	switch (b.tcpi_state) {
	case TCP_STATE_CLOSE_WAIT:
	case TCP_STATE_LAST_ACK:
	case TCP_STATE_CLOSING:
	case TCP_STATE_TIME_WAIT:
		(*consumed)--;
		break;
	case TCP_STATE_CLOSE:
		/* A reset in CLOSE_WAIT leaves EPIPE, else ECONNRESET. */
		(void)getsockopt(fd, SOL_SOCKET, SO_ERROR, &soerr, &len);
		if (soerr == EPIPE)
			(*consumed)--;
		else if (soerr == 0)
			*uncertain = true;
		break;
	}
	return (0);
}

/* Raw counters of what we sent; the caller subtracts its baseline. */
int
tcp_sent(int fd, uint64_t *acked, uint64_t *accepted, struct err *err)
{
	struct tcp_info a, b;
	int unsent, tries;

	for (tries = 0; tries < 1000; tries++) {
		if (info(fd, &a, err) == -1)
			return (-1);
		if (ioctl(fd, SIOCOUTQ, &unsent) == -1)
			return (err_sys(err, ERR_SYSTEM, "SIOCOUTQ"));
		if (info(fd, &b, err) == -1)
			return (-1);
		if (a.tcpi_bytes_acked == b.tcpi_bytes_acked)
			break;
	}
	*acked = b.tcpi_bytes_acked;
	*accepted = b.tcpi_bytes_acked + (unsigned int)unsent;
	return (0);
}

/* Is the connection over?  After a FIN of the peer neither reading nor the
 * loop tells of its reset. */
bool
tcp_is_over(int fd)
{
	struct tcp_info ti;
	struct err err;

	return (info(fd, &ti, &err) == 0 && ti.tcpi_state == TCP_STATE_CLOSE);
}
