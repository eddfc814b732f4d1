/*
 * The bookkeeping of windows: event time over several ways, keys in their
 * order against a plain list, timeouts, and what a checkpoint keeps.
 */
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "tests/unit/unit.h"
#include "worker/window.h"

#define KEYS	60

static const struct topo_stage range = { .name = "r", .kind = STAGE_RANGE,
	.timeout_ns = 100, .patience_ns = 200 };
static const struct topo_stage count = { .name = "c", .kind = STAGE_COUNT,
	.timeout_ns = 50 };
static const struct topo_stage patient = { .name = "p", .kind = STAGE_COUNT };

static struct keytab keys;

static struct kent *
key(unsigned int n)
{
	char name[16];
	struct slice s;
	struct kent *e;

	/* Of different lengths, one the beginning of another. */
	snprintf(name, sizeof(name), "k%u", n);
	s = slice_of(name, strlen(name));
	e = keytab_find(&keys, s, n);
	return (e != NULL ? e : keytab_add(&keys, s, n));
}

static void
begin(void)
{
	keytab_init(&keys);
}

static void
end(struct windows *w)
{
	struct kent *e;
	size_t i = 0;

	while ((e = keytab_next(&keys, &i)) != NULL)
		windows_free_key(e);
	keytab_fini(&keys, NULL, NULL);
	windows_fini(w);
}

START_TEST(test_watermark_is_the_lowest)
{
	struct windows w;

	begin();
	windows_init(&w, &range);
	ck_assert_uint_eq(windows_watermark(&w, 5), WINDOW_ENDLESS);
	ck_assert_uint_eq(windows_hear(&w, 1, 100, 1000), 100);
	ck_assert_uint_eq(windows_hear(&w, 2, 90, 1010), 100); /* not back */
	ck_assert_uint_eq(windows_hear(&w, 1, 150, 1020), 100);
	ck_assert_uint_eq(windows_hear(&w, 2, 140, 1030), 140);
	ck_assert_uint_eq(windows_hear(&w, 1, 120, 1040), 140); /* nor that */
	/* Way 2 falls silent. */
	ck_assert_uint_eq(windows_hear(&w, 1, 200, 1230), 140);
	ck_assert_uint_eq(windows_hear(&w, 1, 200, 1231), 200);
	/* All do; what is known stays. */
	ck_assert_uint_eq(windows_watermark(&w, 1432), WINDOW_ENDLESS);
	ck_assert_uint_eq(w.watermark, 200);
	ck_assert_uint_eq(windows_hear(&w, 2, 150, 1500), 200);
	end(&w);
}
END_TEST

struct plain {
	uint64_t	due;
	bool		known, open;
};

static bool
is_before(const struct plain *p, unsigned int a, unsigned int b)
{
	char x[16], y[16];

	if (p[a].due != p[b].due)
		return (p[a].due < p[b].due);
	snprintf(x, sizeof(x), "k%u", a);
	snprintf(y, sizeof(y), "k%u", b);
	return (strcmp(x, y) < 0);
}

/* The key that the heaps must give. */
static struct kent *
search(const struct plain *p, uint64_t watermark)
{
	int best = -1;

	for (int i = 0; i < KEYS; i++) {
		if (!p[i].known || (watermark == WINDOW_ENDLESS ? !p[i].open :
		    p[i].due > watermark))
			continue;
		if (best == -1 || is_before(p, (unsigned int)i,
		    (unsigned int)best))
			best = i;
	}
	return (best == -1 ? NULL : key((unsigned int)best));
}

START_TEST(test_keys_in_their_order)
{
	struct plain p[KEYS];
	struct windows w;
	uint64_t seed = 7, now = 1000, watermark;

	begin();
	windows_init(&w, &range);
	memset(p, 0, sizeof(p));
	for (int turn = 0; turn < 20000; turn++) {
		unsigned int i = (unsigned int)(unit_random(&seed) % KEYS);

		p[i].known = true;
		p[i].due = unit_random(&seed) % 50;
		p[i].open = unit_random(&seed) % 2;
		windows_note(&w, key(i), p[i].due, p[i].open, now);
		if (turn % 3 == 0) {
			watermark = unit_random(&seed) % 50;
			w.nways = 0;	/* as if all were new */
			w.watermark = 0;
			(void)windows_hear(&w, 1, watermark, now);
		}
		w.firing = true;
		watermark = windows_watermark(&w, now);
		ck_assert_ptr_eq(windows_next(&w, now), search(p, watermark));
		ck_assert_ptr_eq(windows_next(&w, now + 201), search(p,
		    WINDOW_ENDLESS));
	}
	end(&w);
}
END_TEST

START_TEST(test_timeouts_of_range_windows)
{
	struct windows w;

	begin();
	windows_init(&w, &range);
	ck_assert(!windows_ring(&w, 1 << 20));
	(void)windows_hear(&w, 1, 10, 1000);
	windows_note(&w, key(1), 30, true, 1000);
	windows_note(&w, key(2), 20, false, 1000);
	ck_assert_uint_eq(w.timer_ns, 1100);
	ck_assert(!windows_ring(&w, 1099));
	ck_assert(windows_ring(&w, 1100));
	ck_assert_ptr_null(windows_next(&w, 1100));	/* all too young */
	ck_assert_uint_eq(w.timer_ns, 1200);
	(void)windows_hear(&w, 1, 25, 1150);
	ck_assert(windows_ring(&w, 1200));
	ck_assert_ptr_eq(windows_next(&w, 1200), key(2));
	windows_note(&w, key(2), 40, false, 1200);
	ck_assert_ptr_null(windows_next(&w, 1200));
	/* Nobody speaks: what is open is fired, and then there is peace. */
	ck_assert(windows_ring(&w, 1400));
	ck_assert_ptr_eq(windows_next(&w, 1400), key(1));
	windows_note(&w, key(1), 60, false, 1400);
	ck_assert_ptr_null(windows_next(&w, 1400));
	ck_assert_uint_eq(w.timer_ns, 0);
	ck_assert(!windows_ring(&w, 1 << 20));
	end(&w);
}
END_TEST

START_TEST(test_timeouts_of_count_windows)
{
	struct windows w;

	begin();
	windows_init(&w, &count);
	(void)windows_hear(&w, 1, 0, 1000);
	windows_note(&w, key(2), 0, true, 1000);
	windows_note(&w, key(1), 0, true, 1001);
	windows_open(&w, key(2), 1002);		/* keeps its place */
	windows_note(&w, key(2), 0, true, 1002);
	ck_assert(windows_ring(&w, 1050));
	ck_assert_ptr_eq(windows_next(&w, 1050), key(2));
	windows_note(&w, key(2), 0, false, 1050);
	/* Begun after the timeout was due: that one waits for the next. */
	windows_note(&w, key(3), 0, true, 1051);
	ck_assert_ptr_eq(windows_next(&w, 1051), key(1));
	windows_note(&w, key(1), 0, false, 1051);
	ck_assert_ptr_null(windows_next(&w, 1051));
	ck_assert_uint_eq(w.timer_ns, 1101);
	end(&w);

	begin();
	windows_init(&w, &patient);		/* has none */
	(void)windows_hear(&w, 1, 0, 1000);
	windows_note(&w, key(1), 0, true, 1000);
	ck_assert_uint_eq(w.timer_ns, 0);
	windows_loaded(&w, 2000);
	ck_assert_uint_eq(w.timer_ns, 0);
	end(&w);
}
END_TEST

START_TEST(test_saved_and_loaded)
{
	struct windows a, b;
	struct buf saved = { 0 }, head[3] = { { 0 } };
	struct slice rest;
	struct mp c;

	begin();
	windows_init(&a, &range);
	(void)windows_hear(&a, 1, 100, 1000);
	(void)windows_hear(&a, 7, 90, 1010);
	a.forwarded = 77;
	(void)windows_reach(&a, (struct reach){ REACH_AWAY, 66 });
	for (unsigned int i = 0; i < 3; i++) {
		windows_note(&a, key(i), 100 + i, i != 1, 1000);
		windows_put_head(key(i), &head[i]);
		buf_add(&head[i], "rest", 4);
	}
	ck_assert(windows_ring(&a, 1100));
	windows_pack(&a, &saved);
	end(&a);

	begin();
	windows_init(&b, &range);
	mp_init(&c, buf_slice(&saved));
	ck_assert_uint_eq(mp_get_array(&c), WINDOWS_FIELDS);
	ck_assert_uint_eq(mp_get_str(&c).len, 1);
	windows_unpack(&b, &c, true);
	ck_assert(mp_end(&c));
	for (unsigned int i = 0; i < 3; i++) {
		rest = buf_slice(&head[i]);
		ck_assert_int_eq(windows_take_head(&b, key(i), &rest), 0);
		ck_assert_uint_eq(rest.len, 4);
		rest = slice_of(head[i].data, 8);	/* torn */
		ck_assert_int_eq(windows_take_head(&b, key(i + 5), &rest),
		    -1);
		buf_fini(&head[i]);
	}
	windows_loaded(&b, 1100);
	ck_assert(b.firing);
	ck_assert_uint_eq(b.forwarded, 77);
	ck_assert_int_eq(b.in.status, REACH_AWAY);
	ck_assert_uint_eq(b.out.watermark, 66);
	ck_assert_uint_eq(b.nways, 2);
	ck_assert_uint_eq(windows_watermark(&b, 1100), 100);
	ck_assert_ptr_eq(windows_next(&b, 1100), key(0));
	ck_assert_uint_eq(b.open.n, 2);
	ck_assert_uint_eq(b.idle.n, 1);
	end(&b);

	/* Of a stage that is no more; of ways that are no more. */
	mp_init(&c, buf_slice(&saved));
	mp_skip(&c);
	ck_assert(mp_end(&c));
	mp_init(&c, buf_slice(&saved));
	(void)mp_get_array(&c);
	(void)mp_get_str(&c);
	windows_unpack(NULL, &c, true);
	ck_assert(mp_end(&c));
	begin();
	windows_init(&b, &range);
	mp_init(&c, buf_slice(&saved));
	(void)mp_get_array(&c);
	(void)mp_get_str(&c);
	windows_unpack(&b, &c, false);
	ck_assert(mp_end(&c));
	ck_assert_uint_eq(b.nways, 0);
	ck_assert_uint_eq(b.watermark, 100);
	end(&b);
	buf_fini(&saved);
}
END_TEST

/* Without a timer, as after keys have moved: open ones get one. */
START_TEST(test_keys_that_came_without_a_timer)
{
	struct windows w;
	struct buf head = { 0 };
	struct slice s;

	begin();
	windows_init(&w, &count);
	windows_note(&w, key(1), 0, true, 1000);
	windows_put_head(key(1), &head);
	end(&w);
	begin();
	windows_init(&w, &count);
	s = buf_slice(&head);
	ck_assert_int_eq(windows_take_head(&w, key(1), &s), 0);
	s = buf_slice(&head);			/* a newer one */
	ck_assert_int_eq(windows_take_head(&w, key(1), &s), 0);
	ck_assert_uint_eq(w.open.n, 1);
	windows_loaded(&w, 3000);
	ck_assert_uint_eq(w.timer_ns, 3050);
	ck_assert(windows_ring(&w, 3050));
	ck_assert_ptr_eq(windows_next(&w, 3050), key(1));
	end(&w);
	buf_fini(&head);
}
END_TEST

static const struct topo_stage timed = { .name = "t", .kind = STAGE_TIMED };
static const struct topo_stage by_event = { .name = "e", .kind = STAGE_TIMED,
	.by_event = true };

START_TEST(test_timers_by_processing_time)
{
	struct windows w;
	struct kent *e = NULL;

	begin();
	windows_init(&w, &timed);
	ck_assert_uint_eq(windows_timer(&w, &e), UINT64_MAX);
	windows_note(&w, key(1), 70, false, 10);
	windows_note(&w, key(2), 50, false, 10);
	windows_note(&w, key(3), 50, false, 11);
	ck_assert_uint_eq(windows_timer(&w, &e), 50);
	ck_assert_ptr_eq(e, key(2));
	ck_assert_ptr_null(windows_ripe(&w));	/* that is no watermark's */
	windows_note(&w, key(2), WINDOW_ENDLESS, false, 50);
	windows_note(&w, key(3), WINDOW_AT_END, false, 50);
	ck_assert_uint_eq(windows_timer(&w, &e), 70);
	windows_note(&w, key(1), WINDOW_ENDLESS, false, 70);
	ck_assert_uint_eq(windows_timer(&w, &e), UINT64_MAX);
	ck_assert_ptr_null(windows_ripe(&w));
	(void)windows_reach(&w, (struct reach){ REACH_ENDED, REACH_ENDLESS });
	ck_assert_ptr_eq(windows_ripe(&w), key(3));
	windows_note(&w, key(3), WINDOW_ENDLESS, false, 70);
	ck_assert_ptr_null(windows_ripe(&w));
	end(&w);
}
END_TEST

START_TEST(test_timers_by_event_time)
{
	struct windows w;
	struct kent *e;

	begin();
	windows_init(&w, &by_event);
	windows_note(&w, key(1), 70, true, 10);		/* holds messages */
	windows_note(&w, key(2), 50, false, 10);
	windows_note(&w, key(3), 90, false, 11);
	ck_assert_uint_eq(windows_timer(&w, &e), UINT64_MAX);
	(void)windows_reach(&w, (struct reach){ REACH_LIVE, 49 });
	ck_assert_ptr_null(windows_ripe(&w));
	(void)windows_reach(&w, (struct reach){ REACH_LIVE, 50 });
	ck_assert_ptr_eq(windows_ripe(&w), key(2));
	ck_assert_uint_eq(w.out.watermark, 49);		/* held back */
	ck_assert_uint_eq(windows_event(&w, key(2)), 50);
	windows_note(&w, key(2), 60, false, 50);
	ck_assert_ptr_null(windows_ripe(&w));
	/* Idle sources: messages wait no longer, nor what is before them. */
	(void)windows_reach(&w, (struct reach){ REACH_IDLE, 50 });
	ck_assert_uint_eq(w.out.watermark, 49);
	ck_assert_ptr_eq(windows_ripe(&w), key(2));
	ck_assert_uint_eq(windows_event(&w, key(2)), 60);
	windows_note(&w, key(2), WINDOW_ENDLESS, false, 60);
	ck_assert_ptr_eq(windows_ripe(&w), key(1));
	ck_assert_uint_eq(windows_event(&w, key(1)), 70);
	windows_note(&w, key(1), 80, false, 70);
	ck_assert_ptr_null(windows_ripe(&w));	/* timers do wait */
	(void)windows_reach(&w, (struct reach){ REACH_IDLE, 50 });
	ck_assert_uint_eq(w.out.watermark, 70);
	(void)windows_reach(&w, (struct reach){ REACH_ENDED, REACH_ENDLESS });
	ck_assert_ptr_eq(windows_ripe(&w), key(1));
	end(&w);
}
END_TEST

UNIT_MAIN("window", test_watermark_is_the_lowest, test_keys_in_their_order,
    test_timeouts_of_range_windows, test_timeouts_of_count_windows,
    test_saved_and_loaded, test_keys_that_came_without_a_timer,
    test_timers_by_processing_time, test_timers_by_event_time)
