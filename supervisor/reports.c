/*
 * What workers tell for `status` alone: how far partitions of Kafka are ahead,
 * and which sinks wait for what.  Nothing is decided by it.  The last word of
 * a worker that is dead stays until its next process speaks.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "supervisor/supervisor.h"

/* Partitions of one source that one worker reads, by its own numbers. */
struct lag_of {
	char	*topic;		/* NULL: not told yet */
	int32_t	 partition;
	uint64_t lag;
};
struct lag_list {
	struct lag_of	*of;
	uint32_t	 n;
};
struct reports {
	uint32_t	 nlags, nwaits;
	struct lag_list	*lags;		/* by source */
	char		**waits;	/* by sink; NULL: it does not */
};

static void
grow_list(struct lag_list *l, uint32_t n)
{
	if (n <= l->n)
		return;
	l->of = xreallocarray(l->of, n, sizeof(*l->of));
	memset(l->of + l->n, 0, (n - l->n) * sizeof(*l->of));
	l->n = n;
}

static struct reports *
reports_of(struct child *c)
{
	struct reports *r = c->reports;

	if (r != NULL)
		return (r);
	r = c->reports = xcalloc(1, sizeof(*r));
	r->nlags = (uint32_t)c->s->topo.nsources;
	r->nwaits = (uint32_t)c->s->topo.nsinks;
	r->lags = xcalloc(r->nlags + 1, sizeof(*r->lags));
	r->waits = xcalloc(r->nwaits + 1, sizeof(*r->waits));
	return (r);
}

/* false: that cannot be. */
bool
report_lag(struct child *c, const struct msg_lag *m)
{
	uint32_t n = (uint32_t)(m->lags.len / LAG_SIZE), i, end;
	const uint8_t *p = m->lags.data;
	struct lag_of *of;

	if (m->source >= c->s->topo.nsources || m->lags.len % LAG_SIZE != 0 ||
	    m->from >= LAGS_MOST || n > LAGS_MOST - m->from)
		return (false);
	end = m->from + n;
	grow_list(&reports_of(c)->lags[m->source], end);
	of = c->reports->lags[m->source].of;
	for (i = m->from; i < end; i++, p += LAG_SIZE) {
		free(of[i].topic);
		of[i].topic = xstrndup((const char *)m->topic.data,
		    m->topic.len);
		memcpy(&of[i].partition, p, 4);
		memcpy(&of[i].lag, p + 4, 8);
	}
	return (true);
}

bool
report_waits(struct child *c, const struct msg_waits *m)
{
	char **to;

	if (m->sink >= c->s->topo.nsinks)
		return (false);
	to = &reports_of(c)->waits[m->sink];
	free(*to);
	*to = m->why.len == 0 ? NULL :
	    xstrndup((const char *)m->why.data, m->why.len);
	return (true);
}

static void
put_lags(struct buf *b, const struct supervisor *s, const struct child *c,
    uint32_t source)
{
	const struct lag_list *l = &c->reports->lags[source];
	uint32_t i;

	for (i = 0; i < l->n; i++) {
		if (l->of[i].topic == NULL)
			continue;
		buf_addf(b, b->data[b->len - 1] == '[' ? "{" : ", {");
		buf_addf(b, "\"source\": ");
		ctl_json_str(b, msg_cstr(s->topo.sources[source].name));
		buf_addf(b, ", \"topic\": ");
		ctl_json_str(b, msg_cstr(l->of[i].topic));
		buf_addf(b, ", \"partition\": %d, \"worker\": %u, \"lag\": %"
		    PRIu64 "}", (int)l->of[i].partition, c->number,
		    l->of[i].lag);
	}
}

/* All partitions, as a list in JSON. */
void
reports_partitions(struct buf *b, const struct supervisor *s)
{
	uint32_t source, i;

	buf_addf(b, "[");
	for (source = 0; source < s->topo.nsources; source++)
		for (i = 0; i < s->n; i++)
			if (s->child[i].reports != NULL)
				put_lags(b, s, &s->child[i], source);
	buf_addf(b, "]");
}

/* Why a sink waits, of the first worker that says so; NULL: none does. */
const char *
reports_wait(const struct supervisor *s, uint32_t sink)
{
	uint32_t i;

	for (i = 0; i < s->n; i++)
		if (s->child[i].reports != NULL &&
		    s->child[i].reports->waits[sink] != NULL)
			return (s->child[i].reports->waits[sink]);
	return (NULL);
}

void
reports_fini(struct child *c)
{
	struct reports *r = c->reports;
	uint32_t i, k;

	if (r == NULL)
		return;
	for (i = 0; i < r->nlags; i++) {
		for (k = 0; k < r->lags[i].n; k++)
			free(r->lags[i].of[k].topic);
		free(r->lags[i].of);
	}
	for (i = 0; i < r->nwaits; i++)
		free(r->waits[i]);
	free(r->lags);
	free(r->waits);
	free(r);
	c->reports = NULL;
}
