/* The stable position, and the cut after a power loss. */
#include <string.h>

#include "tests/unit/unit.h"
#include "worker/stable.h"

#define RING	(1 << 20)
#define WORKERS	3

static uint32_t passes[WORKERS];

static void
passed(void *arg, uint32_t x, uint32_t w)
{
	ck_assert_uint_eq(x, 0);
	ck_assert_uint_lt(w, WORKERS);
	(void)arg;
	passes[w]++;
}

static void
put_bytes(struct journal *j, uint32_t len)
{
	memset(journal_stage(j, ENTRY_FILE, 0, 0, len, 0), 'x', len);
	journal_publish(j, len);
}

static void
put_frame(struct journal *j, uint32_t from, uint64_t lineage, uint64_t pos)
{
	struct frame_head h = { lineage, pos, 0, 1 };

	memcpy(journal_stage(j, ENTRY_FRAME, (uint64_t)from << 16, 0,
	    sizeof(h), 0), &h, sizeof(h));
	journal_publish(j, sizeof(h));
}

START_TEST(test_synced_and_stable_at_the_sender)
{
	struct mark marks[WORKERS] = { { 0 } };
	struct stable s;
	struct journal j;
	struct err err;
	uint64_t first, second;

	ck_assert_int_eq(journal_create(&j, NULL, RING, 0, 1, 0, &err), 0);
	stable_init(&s, WORKERS, 1, 0, marks);
	put_bytes(&j, 10);
	first = journal_tail(&j);
	put_frame(&j, 1, 77, 1000);
	second = journal_tail(&j);
	put_bytes(&j, 10);
	/* Nothing is synced. */
	ck_assert(!stable_scan(&s, &j, passed, NULL));
	stable_synced(&s, first);
	ck_assert(stable_scan(&s, &j, passed, NULL));
	ck_assert_uint_eq(s.pos, first);
	/* Synced, but nobody knows the sender; then it is too far behind. */
	stable_synced(&s, journal_tail(&j));
	ck_assert(!stable_scan(&s, &j, passed, NULL));
	stable_hello(&s, 1, 77);
	stable_heard(&s, 1, 999);
	ck_assert(!stable_scan(&s, &j, passed, NULL));
	ck_assert_uint_eq(passes[1], 0);
	stable_heard(&s, 1, 1000);
	stable_heard(&s, 1, 5);			/* does not go back */
	ck_assert(stable_scan(&s, &j, passed, NULL));
	ck_assert_uint_eq(s.pos, journal_tail(&j));
	ck_assert_uint_eq(passes[1], 1);
	ck_assert_uint_eq(s.safe[1].pos, 1000);
	ck_assert_uint_eq(s.safe[1].lineage, 77);
	ck_assert_uint_gt(s.pos, second);
	stable_fini(&s);
	journal_close(&j);
}
END_TEST

START_TEST(test_another_life_of_the_sender)
{
	struct mark marks[WORKERS] = { { 0 } };
	struct stable s;
	struct journal j;
	struct err err;

	ck_assert_int_eq(journal_create(&j, NULL, RING, 0, 1, 0, &err), 0);
	stable_init(&s, WORKERS, 1, 0, marks);
	put_frame(&j, 2, 50, 1000);
	stable_synced(&s, journal_tail(&j));
	ck_assert(!stable_scan(&s, &j, passed, NULL));
	/* Its loss was accepted: no life will ever announce that. */
	stable_hello(&s, 2, 51);
	ck_assert(stable_scan(&s, &j, passed, NULL));
	ck_assert_uint_eq(s.pos, journal_tail(&j));
	put_frame(&j, 2, 51, 10);
	stable_synced(&s, journal_tail(&j));
	ck_assert(!stable_scan(&s, &j, passed, NULL));
	stable_heard(&s, 2, 10);
	ck_assert(stable_scan(&s, &j, passed, NULL));
	stable_fini(&s);
	journal_close(&j);
}
END_TEST

/* --- any schedule -------------------------------------------------------- */

static struct {
	struct journal	j[WORKERS];
	struct stable	s[WORKERS];
} c;

static void
step(uint64_t *seed)
{
	uint32_t w = (uint32_t)(unit_random(seed) % WORKERS);
	uint32_t from = (uint32_t)(w + 1 + unit_random(seed) %
	    (WORKERS - 1)) % WORKERS;

	switch (unit_random(seed) % 6) {
	case 0:
		put_bytes(&c.j[w], (uint32_t)(unit_random(seed) % 300) + 1);
		break;
	case 1:			/* caused by all that the sender has */
	case 2:
		if (journal_tail(&c.j[from]) > 0)
			put_frame(&c.j[w], from, from + 1,
			    journal_tail(&c.j[from]) - 1);
		break;
	case 3:
		stable_synced(&c.s[w], journal_tail(&c.j[w]));
		break;
	case 4:
		(void)stable_scan(&c.s[w], &c.j[w], passed, NULL);
		break;
	default:
		stable_heard(&c.s[w], from, c.s[from].pos);
	}
}

/* An entry's end, at random, that the disk may have come to. */
static uint64_t
proven(const struct journal *j, uint64_t synced, uint64_t *seed)
{
	uint64_t pos = synced;

	while (pos < journal_tail(j) && unit_random(seed) % 4 != 0)
		pos = entry_end(journal_at(j, pos));
	return (pos);
}

static void
check_cut(const struct cut *cut)
{
	struct frame_head h;
	struct entry *e;
	uint64_t pos;
	uint32_t w;

	for (w = 0; w < WORKERS; w++) {
		/* Nothing that was believed is given up. */
		ck_assert_uint_ge(cut[w].pos, c.s[w].pos);
		for (pos = 0; pos < cut[w].pos; pos = entry_end(e)) {
			e = journal_at(&c.j[w], pos);
			ck_assert_ptr_nonnull(e);
			if (e->type != ENTRY_FRAME)
				continue;
			memcpy(&h, e->data, sizeof(h));
			ck_assert_uint_le(h.pos, cut[e->channel >> 16].pos);
		}
		ck_assert_uint_eq(pos, cut[w].pos);
	}
}

START_TEST(test_no_cut_is_below_a_stable_position)
{
	struct mark marks[WORKERS] = { { 0 } };
	struct cut cut[WORKERS];
	struct err err;
	uint64_t seed, pos, stable = 0, whole = 0;
	uint32_t w, i;
	bool moved;

	for (seed = 1; seed <= 300; seed++) {
		uint64_t r = seed;

		for (w = 0; w < WORKERS; w++) {
			ck_assert_int_eq(journal_create(&c.j[w], NULL, RING,
			    w, w + 1, 0, &err), 0);
			stable_init(&c.s[w], WORKERS, 1, 0, marks);
			for (i = 0; i < WORKERS; i++)
				stable_hello(&c.s[w], i, i + 1);
		}
		for (i = 0; i < 400; i++)
			step(&r);
		for (w = 0; w < WORKERS; w++)
			cut[w] = (struct cut){ w + 1, proven(&c.j[w],
			    c.s[w].synced, &r) };
		do {
			moved = false;
			for (w = 0; w < WORKERS; w++) {
				pos = stable_cutoff(&c.j[w], 0, cut, WORKERS);
				if (pos < cut[w].pos) {
					cut[w].pos = pos;
					moved = true;
				}
			}
		} while (moved);
		check_cut(cut);
		for (w = 0; w < WORKERS; w++) {
			stable += c.s[w].pos;
			whole += journal_tail(&c.j[w]);
			stable_fini(&c.s[w]);
			journal_close(&c.j[w]);
		}
	}
	/* It is not true for want of stable positions. */
	ck_assert_uint_gt(stable, whole / 16);
}
END_TEST

UNIT_MAIN("stable", test_synced_and_stable_at_the_sender,
    test_another_life_of_the_sender, test_no_cut_is_below_a_stable_position)
