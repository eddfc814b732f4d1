/*
 * Duplicates of every client's and receiver's connection.  They keep the
 * connection open and its counters readable while a worker dies, and are
 * registered here (and in systemd's store) before a worker gets them, so
 * that no byte is ever sent or read on a connection that nobody holds.
 *
 * While a duplicate exists close(2) closes nothing: hence shutdown(2).
 */
#include <sys/socket.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "common/mem.h"
#include "supervisor/supervisor.h"

/* --- names in systemd's store -------------------------------------------- */

void
hold_name(const struct held *h, char name[HOLD_NAME])
{
	if (h->is_sink)
		(void)snprintf(name, HOLD_NAME, "sink.%" PRIu64 ".%u.%u.%"
		    PRIu64, h->id, h->worker, h->index, h->baseline);
	else
		(void)snprintf(name, HOLD_NAME, "conn.%" PRIu64 ".%u.%u",
		    h->id, h->worker, h->index);
}

/* Decimal without sign, space or leading zero. */
static int
get_field(const char **p, uint64_t max, uint64_t *v)
{
	const char *s = *p;

	if (*s != '.')
		return (-1);
	s++;
	if (*s < '0' || *s > '9' || (*s == '0' && s[1] >= '0' && s[1] <= '9'))
		return (-1);
	for (*v = 0; *s >= '0' && *s <= '9'; s++) {
		uint64_t digit = (uint64_t)(*s - '0');

		if (*v > (max - digit) / 10)
			return (-1);
		*v = *v * 10 + digit;
	}
	*p = s;
	return (0);
}

int
hold_parse(const char *name, struct held *h)
{
	uint64_t worker, index;
	const char *p = name + 4;

	memset(h, 0, sizeof(*h));
	h->fd = -1;
	if (strncmp(name, "sink", 4) == 0)
		h->is_sink = true;
	else if (strncmp(name, "conn", 4) != 0)
		return (-1);
	if (get_field(&p, UINT64_MAX, &h->id) == -1 ||
	    get_field(&p, UINT32_MAX, &worker) == -1 ||
	    get_field(&p, UINT32_MAX, &index) == -1 ||
	    (h->is_sink && get_field(&p, UINT64_MAX, &h->baseline) == -1) ||
	    *p != '\0' || h->id == 0)
		return (-1);
	h->worker = (uint32_t)worker;
	h->index = (uint32_t)index;
	return (0);
}

/* --- the table ----------------------------------------------------------- */

void
hold_init(struct supervisor *s)
{
	s->conns = xcalloc(s->topo.nsources * s->n + 1, sizeof(*s->conns));
	s->sink_conn = xcalloc(s->topo.nsinks * s->n + 1,
	    sizeof(*s->sink_conn));
	if (s->next_id == 0)
		s->next_id = (s->catalog.epoch << 32) + 1;
}

void
hold_fini(struct supervisor *s)
{
	struct held *h, *next;

	HASH_ITER(hh, s->held, h, next)
		hold_drop(s, h, "stop");
	free(s->conns);
	free(s->sink_conn);
	s->conns = NULL;
	s->sink_conn = NULL;
}

struct held *
hold_find(struct supervisor *s, uint64_t id)
{
	struct held *h;

	HASH_FIND(hh, s->held, &id, sizeof(id), h);
	return (h);
}

static size_t
slot(const struct supervisor *s, uint32_t index, uint32_t worker)
{
	return ((size_t)index * s->n + worker);
}

struct held *
hold_sink(struct supervisor *s, uint32_t worker, uint32_t sink)
{
	uint64_t id = s->sink_conn[slot(s, sink, worker)];

	return (id == 0 ? NULL : hold_find(s, id));
}

uint32_t
hold_count(const struct supervisor *s, uint32_t source, uint32_t worker)
{
	return (s->conns == NULL ? 0 : s->conns[slot(s, source, worker)]);
}

uint32_t
hold_count_all(const struct supervisor *s, uint32_t source)
{
	uint32_t i, n = 0;

	for (i = 0; i < s->n; i++)
		n += hold_count(s, source, i);
	return (n);
}

uint32_t
hold_count_sinks(const struct supervisor *s, uint32_t sink)
{
	uint32_t i, n = 0;

	for (i = 0; s->sink_conn != NULL && i < s->n; i++)
		n += s->sink_conn[slot(s, sink, i)] != 0;
	return (n);
}

struct held *
hold_take(struct supervisor *s, bool is_sink, uint64_t id, uint32_t worker,
    uint32_t index, uint64_t baseline, int *fd, const char *remote)
{
	struct held *h = xcalloc(1, sizeof(*h));

	h->id = id != 0 ? id : s->next_id++;
	h->is_sink = is_sink;
	h->worker = worker;
	h->index = index;
	h->baseline = baseline;
	h->fd = *fd;
	*fd = -1;
	(void)snprintf(h->remote, sizeof(h->remote), "%s", remote);
	HASH_ADD(hh, s->held, id, sizeof(h->id), h);
	if (is_sink)
		s->sink_conn[slot(s, index, worker)] = h->id;
	else
		s->conns[slot(s, index, worker)]++;
	return (h);
}

void
hold_drop(struct supervisor *s, struct held *h, const char *why)
{
	char name[HOLD_NAME];

	log_debug("connection ends id=%" PRIu64 " worker=%u %s=%u remote=%s "
	    "why=\"%s\"", h->id, h->worker, h->is_sink ? "sink" : "source",
	    h->index, h->remote, why);
	(void)shutdown(h->fd, SHUT_RDWR);
	close(h->fd);
	if (h->stored) {
		hold_name(h, name);
		notify_unstore(s, name);
	}
	if (h->is_sink)
		s->sink_conn[slot(s, h->index, h->worker)] = 0;
	else
		s->conns[slot(s, h->index, h->worker)]--;
	HASH_DEL(s->held, h);
	free(h);
}

void
hold_drop_sinks(struct child *c)
{
	struct supervisor *s = c->s;
	struct held *h;
	uint32_t i;

	for (i = 0; i < s->topo.nsinks; i++)
		if ((h = hold_sink(s, c->number, i)) != NULL)
			hold_drop(s, h, "worker died");
}

/* --- handing over -------------------------------------------------------- */

static void
store(struct supervisor *s, struct held *h)
{
	char name[HOLD_NAME];

	if (h->stored)
		return;
	hold_name(h, name);
	notify_store(s, name, h->fd);
	h->stored = true;
}

/* To its worker, if that has a process; else its next life gets it. */
void
hold_send(struct held *h, struct supervisor *s)
{
	struct child *c = &s->child[h->worker];
	struct buf b = { 0 };

	store(s, h);
	if (!child_alive(c))
		return;
	if (h->is_sink) {
		struct msg_sinkconn m = { h->id, h->index, h->baseline };

		msg_put_sinkconn(&b, &m);
	} else {
		struct msg_conn m = { h->id, h->index, msg_cstr(h->remote) };

		msg_put_conn(&b, &m);
		if (c->state < CHILD_RECOVERING)
			c->conns++;
	}
	channel_send_held(c, &b, h->id);
	buf_fini(&b);
}

void
hold_resend(struct child *c)
{
	struct held *h, *next;

	HASH_ITER(hh, c->s->held, h, next)
		if (h->worker == c->number)
			hold_send(h, c->s);
}
