/*
 * What a worker's structure has per channel, sink, source and peer, by its
 * topology and the number of workers.
 */
#include <stdlib.h>

#include "common/mem.h"
#include "common/part.h"
#include "worker/worker.h"

static int
make_automaton(struct worker *w, struct err *err)
{
	uint32_t parts = (uint32_t)w->conf.partitions;

	w->a.conf = &w->conf;
	w->a.topo = &w->topo;
	w->a.journal = &w->journal;
	w->a.stats = w->stats;
	w->a.worker = w->me;
	w->a.workers = w->n;
	w->a.epoch = w->epoch;
	w->a.bits = part_bits(parts);
	w->a.table = xcalloc(parts, sizeof(*w->a.table));
	part_assign(w->a.table, parts, w->n);
	return (automaton_init(&w->a, err));
}

static void
make_peers(struct worker *w)
{
	struct peer *p;
	uint32_t i;

	w->peers = xcalloc(w->n, sizeof(*w->peers));
	for (i = 0; i < w->n; i++) {
		p = &w->peers[i];
		p->w = w;
		p->worker = i;
		p->fd = -1;
		p->x = xcalloc(w->topo.nexchanges + 1, sizeof(*p->x));
	}
}

int
worker_make(struct worker *w, struct err *err)
{
	size_t n = (size_t)w->topo.nexchanges * w->n + 1;
	uint32_t i;

	if (make_automaton(w, err) == -1)
		return (-1);
	w->peer_box = xcalloc(n, sizeof(*w->peer_box));
	w->journaled = xcalloc(n, sizeof(*w->journaled));
	w->pending = xcalloc(n, sizeof(*w->pending));
	w->sinks = xcalloc(w->topo.nsinks + 1, sizeof(*w->sinks));
	w->saved_keys = xcalloc(w->topo.nstages + 1, sizeof(*w->saved_keys));
	w->sources = xcalloc(w->topo.nsources + 1, sizeof(*w->sources));
	make_peers(w);
	for (i = 0; i < w->topo.nsinks; i++) {
		w->sinks[i].fd = -1;
		w->sinks[i].mine = sink_is_everywhere(&w->topo.sinks[i]) ||
		    automaton_writer(&w->a, i) == w->me;
		if (w->topo.sinks[i].kind == SINK_CONNECTOR)
			w->sinks[i].committer = committer_new(w,
			    &w->sinks[i], i);
	}
	for (i = 0; i < w->topo.nsources; i++)
		w->sources[i].fd = w->sources[i].in = -1;
	w->snapshot = xcalloc(worker_nboxes(w) + 1, sizeof(*w->snapshot));
	w->journal.fd = -1;
	return (0);
}

void
worker_unmake(struct worker *w)
{
	size_t i;

	automaton_fini(&w->a);
	for (i = 0; i < worker_nboxes(w); i++)
		buf_fini(&w->snapshot[i]);
	for (i = 0; i < w->n; i++) {
		buf_fini(&w->peers[i].in);
		buf_fini(&w->peers[i].out);
		free(w->peers[i].x);
	}
	free(w->a.table);
	free(w->peers);
	free(w->peer_box);
	free(w->journaled);
	free(w->pending);
	for (i = 0; i < w->topo.nsinks; i++)
		committer_free(w->sinks[i].committer);
	txns_fini(&w->txns);
	free(w->sinks);
	free(w->saved_keys);
	free(w->sources);
	free(w->snapshot);
}
