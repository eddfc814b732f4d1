/* Bytes that wait to be sent, on sockets that must not stop the supervisor:
 * those of ctl.c, external.c and metrics.c. */
#include <sys/socket.h>

#include <errno.h>

#include "common/fault.h"
#include "supervisor/supervisor.h"

int
stream_flush(int fd, struct buf *out)
{
	ssize_t n;

	while (out->len > 0) {
		FAULT_POINT(answer_send_before);
		n = send(fd, out->data, out->len, MSG_NOSIGNAL |
		    MSG_DONTWAIT);
		FAULT_POINT(answer_send_after);
		if (n == -1 && errno == EINTR)
			continue;
		if (n == -1 && errno == EAGAIN)
			break;
		if (n == -1)
			return (-1);
		buf_consume(out, (size_t)n);
	}
	return (0);
}
