/* See window.h.  Binary heaps by (due, key), each key knows its place. */
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "worker/planted.h"
#include "worker/window.h"

void
windows_init(struct windows *w, const struct topo_stage *stage)
{
	memset(w, 0, sizeof(*w));
	w->stage = stage;
}

void
windows_fini(struct windows *w)
{
	free(w->way);
	buf_fini(&w->done);
	free(w->open.at);
	free(w->idle.at);
	free(w->rest.at);
	memset(w, 0, sizeof(*w));
}

/* --- heaps --------------------------------------------------------------- */

/* Before, in an order that depends on nothing but the keys. */
static bool
before(const struct wkey *a, const struct wkey *b)
{
	size_t n = a->e->key_len < b->e->key_len ? a->e->key_len :
	    b->e->key_len;
	int c;

	if (a->due != b->due)
		return (a->due < b->due);
	c = memcmp(a->e->key, b->e->key, n);
	return (c != 0 ? c < 0 : a->e->key_len < b->e->key_len);
}

static void
place(struct wheap *h, size_t i, struct wkey *k)
{
	h->at[i] = k;
	k->i = i;
}

static void
sift_up(struct wheap *h, size_t i, struct wkey *k)
{
	for (; i > 0 && before(k, h->at[(i - 1) / 2]); i = (i - 1) / 2)
		place(h, i, h->at[(i - 1) / 2]);
	place(h, i, k);
}

static void
sift_down(struct wheap *h, size_t i, struct wkey *k)
{
	size_t child;

	while ((child = 2 * i + 1) < h->n) {
		if (child + 1 < h->n && before(h->at[child + 1],
		    h->at[child]))
			child++;
		if (!before(h->at[child], k))
			break;
		place(h, i, h->at[child]);
		i = child;
	}
	place(h, i, k);
}

static void
heap_add(struct wheap *h, struct wkey *k)
{
	if (h->n == h->cap) {
		h->cap = h->cap == 0 ? 16 : h->cap * 2;
		h->at = xreallocarray(h->at, h->cap, sizeof(*h->at));
	}
	h->n++;
	sift_up(h, h->n - 1, k);
}

static void
heap_remove(struct wheap *h, struct wkey *k)
{
	struct wkey *last = h->at[--h->n];

	if (last == k)
		return;
	/* Into the hole, then to where it belongs. */
	if (k->i > 0 && before(last, h->at[(k->i - 1) / 2]))
		sift_up(h, k->i, last);
	else
		sift_down(h, k->i, last);
}

static const struct wkey *
heap_first(const struct wheap *h)
{
	return (h->n == 0 ? NULL : h->at[0]);
}

static struct wheap *
heap_of(struct windows *w, enum window_wait wait)
{
	return (wait == WAIT_OPEN ? &w->open : wait == WAIT_REST ? &w->rest :
	    &w->idle);
}

/* --- event time ---------------------------------------------------------- */

static struct wway *
way_of(struct windows *w, uint32_t via)
{
	size_t i;

	for (i = 0; i < w->nways; i++)
		if (w->way[i].via == via)
			return (&w->way[i]);
	w->way = xreallocarray(w->way, w->nways + 1, sizeof(*w->way));
	memset(&w->way[w->nways], 0, sizeof(*w->way));
	w->way[w->nways].via = via;
	return (&w->way[w->nways++]);
}

uint64_t
windows_hear(struct windows *w, uint32_t via, uint64_t watermark,
    uint64_t now_ns)
{
	struct wway *way = way_of(w, via);

	if (watermark > way->watermark)
		way->watermark = watermark;
	way->heard_ns = now_ns;
	if (w->timer_ns == 0 && !w->firing && w->stage->timeout_ns != 0)
		w->timer_ns = now_ns + w->stage->timeout_ns;
	return (windows_watermark(w, now_ns));
}

uint64_t
windows_watermark(struct windows *w, uint64_t now_ns)
{
	uint64_t low = WINDOW_ENDLESS;
	bool live = false;
	size_t i;

	for (i = 0; i < w->nways; i++) {
		const struct wway *way = &w->way[i];

		if (now_ns > way->heard_ns &&
		    now_ns - way->heard_ns > w->stage->patience_ns)
			continue;
		live = true;
		if (way->watermark < low)
			low = way->watermark;
	}
	if (!live)
		return (WINDOW_ENDLESS);
	if (low > w->watermark)
		w->watermark = low;
	return (w->watermark);
}

/* --- timeouts ------------------------------------------------------------ */

void
windows_note(struct windows *w, struct kent *e, uint64_t due,
    enum window_wait wait, uint64_t now_ns)
{
	struct wkey *k = e->window;

	if (k == NULL) {
		k = e->window = xcalloc(1, sizeof(*k));
		k->e = e;
	} else {
		/* A count window keeps its place until it is put out. */
		if (w->stage->kind == STAGE_COUNT && k->wait == WAIT_OPEN &&
		    wait == WAIT_OPEN)
			return;
		heap_remove(heap_of(w, k->wait), k);
	}
	k->wait = wait;
	k->due = w->stage->kind == STAGE_COUNT ? now_ns : due;
	heap_add(heap_of(w, wait), k);
}

void
windows_forget(struct windows *w, struct kent *e)
{
	if (e->window != NULL)
		heap_remove(heap_of(w, e->window->wait), e->window);
	windows_free_key(e);
}

void
windows_open(struct windows *w, struct kent *e, uint64_t now_ns)
{
	const struct wkey *k = e->window;

	if (k == NULL || k->wait != WAIT_OPEN)
		windows_note(w, e, k == NULL ? 0 : k->due, WAIT_OPEN, now_ns);
}

/* May a later timeout have something to do? */
static bool
waits(struct windows *w, uint64_t now_ns)
{
	const struct wkey *idle = heap_first(&w->idle);
	uint64_t high = 0;
	size_t i;

	if (w->open.n > 0 || w->stage->kind == STAGE_COUNT)
		return (w->open.n > 0);
	if (idle == NULL || windows_watermark(w, now_ns) == WINDOW_ENDLESS)
		return (false);
	for (i = 0; i < w->nways; i++)
		if (w->way[i].watermark > high)
			high = w->way[i].watermark;
	return (idle->due <= high);
}

bool
windows_ring(struct windows *w, uint64_t now_ns)
{
	if (!w->firing && w->timer_ns != 0 && w->timer_ns <= now_ns) {
		w->firing = true;
		w->limit = now_ns;
	}
	return (w->firing);
}

static const struct wkey *
ripe(struct windows *w, uint64_t now_ns)
{
	const struct wkey *open = heap_first(&w->open);
	const struct wkey *idle = heap_first(&w->idle), *k;
	uint64_t watermark;

	if (w->stage->kind == STAGE_COUNT)
		return (open != NULL && open->due <= w->limit ? open : NULL);
	watermark = windows_watermark(w, now_ns);
	if (watermark == WINDOW_ENDLESS)
		return (open);
	k = open == NULL || (idle != NULL && before(idle, open)) ? idle : open;
	return (k != NULL && k->due <= watermark ? k : NULL);
}

struct kent *
windows_next(struct windows *w, uint64_t now_ns)
{
	const struct wkey *k = ripe(w, now_ns);

	if (k != NULL)
		return (k->e);
	w->firing = false;
	w->timer_ns = waits(w, now_ns) ? now_ns + w->stage->timeout_ns : 0;
	return (NULL);
}

/* --- the end of what comes ----------------------------------------------- */

static const struct wkey *
earlier(const struct wkey *a, const struct wkey *b)
{
	return (a == NULL || (b != NULL && before(b, a)) ? b : a);
}

/* TIMED: all keys wait for something. */
static const struct wkey *
first_timed(const struct windows *w)
{
	const struct wkey *k = earlier(heap_first(&w->open),
	    heap_first(&w->idle));

	return (w->in.status == REACH_ENDED ? k :
	    earlier(k, heap_first(&w->rest)));
}

/* While all sources are idle, messages do not wait; timers do. */
static struct kent *
ripe_timed(const struct windows *w)
{
	const struct wkey *k = first_timed(w);

	if (k == NULL || k->due == WINDOW_ENDLESS)
		return (NULL);
	return (w->in.status == REACH_ENDED || (w->stage->by_event &&
	    (k->due <= w->watermark || (w->in.status == REACH_IDLE &&
	    w->open.n > 0))) ? k->e : NULL);
}

uint64_t
windows_timer(const struct windows *w, struct kent **e)
{
	const struct wkey *k = first_timed(w);

	if (w->stage->by_event || k == NULL || k->due >= WINDOW_AT_END)
		return (UINT64_MAX);
	*e = k->e;
	return (k->due);
}

struct kent *
windows_ripe(const struct windows *w)
{
	const struct wkey *k = heap_first(&w->open);

	if (w->stage->kind == STAGE_TIMED)
		return (ripe_timed(w));
	if (k == NULL)
		return (NULL);
	if (w->in.status == REACH_ENDED)
		return (k->e);
	return (w->stage->by_event && (k->due <= w->watermark ||
	    w->in.status == REACH_IDLE) ? k->e : NULL);
}

uint64_t
windows_event(struct windows *w, const struct kent *e)
{
	uint64_t due = ((const struct wkey *)e->window)->due;

	/* Where all sources are idle the windows decide how late it is. */
	if (w->in.status == REACH_IDLE && due > w->watermark)
		w->watermark = due;
	return (due);
}

/* Not empty for the empty key: the length goes before. */
static bool
is_done(const struct windows *w, const struct kent *e)
{
	struct slice s = buf_slice(&w->done);
	size_t n;
	int c;

	if (s.len == 0)
		return (false);
	s = slice_of(s.data + 1, s.len - 1);
	n = e->key_len < s.len ? e->key_len : s.len;
	c = n == 0 ? 0 : memcmp(e->key, s.data, n);
	return (c != 0 ? c < 0 : e->key_len <= s.len);
}

void
windows_state(struct windows *w, struct kent *e)
{
	const struct wkey *k = e->window;

	if (k == NULL || (k->wait == WAIT_OPEN) == is_done(w, e))
		windows_note(w, e, WINDOW_ENDLESS, is_done(w, e) ? WAIT_IDLE :
		    WAIT_OPEN, 0);
}

void
windows_had_end(struct windows *w, struct kent *e)
{
	buf_clear(&w->done);
	buf_add(&w->done, "", 1);
	buf_add(&w->done, e->key, e->key_len);
	windows_state(w, e);
}

/* Something comes again: there will be another end. */
static void
begin_again(struct windows *w)
{
	buf_clear(&w->done);
	while (w->idle.n > 0)
		windows_state(w, w->idle.at[0]->e);
}

struct reach
windows_reach(struct windows *w, struct reach in)
{
	w->in = in;
	if (in.status != REACH_ENDED && w->done.len > 0)
		begin_again(w);
	if (in.status == REACH_ENDED && w->open.n == 0) {
		w->firing = false;	/* no timeout would find anything */
		w->timer_ns = 0;
	}
	if (w->stage->by_event && in.status != REACH_ENDED &&
	    in.watermark > w->watermark)
		w->watermark = in.watermark;
	if (windows_ripe(w) == NULL) {
		if (w->stage->by_event && in.status != REACH_ENDED)
			in.watermark = w->watermark;
		reach_raise(&w->out, in);
	}
	return (w->out);
}

/* --- saving -------------------------------------------------------------- */

void
windows_put_head(const struct kent *e, struct buf *b)
{
	const struct wkey *k = e->window;
	uint8_t head[WINDOW_HEAD] = { 0 };
	size_t i;

	for (i = 0; k != NULL && i < 8; i++)
		head[i] = (uint8_t)(k->due >> (8 * i));
	head[8] = k == NULL ? WAIT_IDLE : (uint8_t)k->wait;
	buf_add(b, head, sizeof(head));
}

void
windows_free_key(struct kent *e)
{
	free(e->window);
	e->window = NULL;
}

int
windows_take_head(struct windows *w, struct kent *e, struct slice *s)
{
	uint64_t due = 0;
	size_t i;

	if (s->len < WINDOW_HEAD || s->data[8] > WAIT_REST)
		return (-1);
	windows_forget(w, e);			/* an older one */
	for (i = 0; i < 8; i++)
		due |= (uint64_t)s->data[i] << (8 * i);
	windows_note(w, e, due, (enum window_wait)s->data[8], due);
	s->data += WINDOW_HEAD;
	s->len -= WINDOW_HEAD;
	return (0);
}

void
windows_pack(const struct windows *w, struct buf *b)
{
	size_t i;

	mp_put_array(b, WINDOWS_FIELDS);
	mp_put_str(b, w->stage->name);
	mp_put_uint(b, w->watermark);
	mp_put_uint(b, w->forwarded);
	mp_put_uint(b, w->timer_ns);
	mp_put_bool(b, w->firing);
	mp_put_uint(b, w->limit);
	mp_put_bin(b, w->done.data, w->done.len);
	reach_pack(&w->in, b);
	reach_pack(&w->out, b);
	mp_put_array(b, (uint32_t)w->nways);
	for (i = 0; i < w->nways; i++) {
		mp_put_array(b, 3);
		mp_put_uint(b, w->way[i].via);
		mp_put_uint(b, w->way[i].watermark);
		mp_put_uint(b, w->way[i].heard_ns);
	}
}

/* All behind the name, which told the caller which windows these are.  NULL:
 * of a stage that is no more. */
void
windows_unpack(struct windows *w, struct mp *c, bool ways)
{
	struct windows dummy = { 0 };
	struct wway in, *way;
	struct reach from, to;
	struct slice done;
	uint32_t i, n;

	if (w == NULL)
		w = &dummy;
	w->watermark = mp_get_uint(c, UINT64_MAX);
	w->forwarded = mp_get_uint(c, UINT64_MAX);
	w->timer_ns = mp_get_uint(c, UINT64_MAX);
	w->firing = mp_get_bool(c);
	w->limit = mp_get_uint(c, UINT64_MAX);
	done = mp_get_bin(c);
	from = reach_unpack(c);
	to = reach_unpack(c);
	if (mp_ok(c) && w != &dummy) {
		buf_clear(&w->done);
		buf_add(&w->done, done.data, done.len);
	}
	if (planted("TIME3"))
		w->watermark = 0;
	if (mp_ok(c) && ways) {
		w->in = from;
		w->out = to;
	}
	n = mp_get_array(c);
	for (i = 0; i < n && mp_ok(c); i++) {
		if (mp_get_array(c) != 3)
			c->bad = true;
		in.via = (uint32_t)mp_get_uint(c, UINT32_MAX);
		in.watermark = mp_get_uint(c, UINT64_MAX);
		in.heard_ns = mp_get_uint(c, UINT64_MAX);
		if (!mp_ok(c) || !ways)
			continue;
		way = way_of(w, in.via);
		*way = in;
	}
	free(dummy.way);
}

void
windows_loaded(struct windows *w, uint64_t now_ns)
{
	if (w->stage->timeout_ns == 0) {	/* it may have had one before */
		w->firing = false;
		w->timer_ns = 0;
	} else if (w->open.n > 0 && w->timer_ns == 0 && !w->firing)
		w->timer_ns = now_ns + w->stage->timeout_ns;
}
