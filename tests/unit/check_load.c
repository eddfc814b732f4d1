/*
 * Saved keys after a start: the first of them at once, one that is needed
 * when it is needed, all others in the background, and whatever is saved
 * meanwhile, what is in memory is never replaced by what was saved before.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/part.h"
#include "tests/unit/rig.h"
#include "tests/unit/unit.h"
#include "worker/sizes.h"
#include "worker/storeread.h"

#define KEYS	(LOAD_FIRST + LOAD_FIRST / 2)

static char dir[64];
static struct worker w;
static struct err err;

/* --- the application ---------------------------------------------------- */

static int
h_load(struct host_app *h, int fn, struct slice s, void **obj, struct err *e)
{
	(void)h;
	(void)fn;
	(void)e;
	*obj = xstrndup((const char *)s.data, s.len);
	return (0);
}

static void
h_repr(struct host_app *h, const void *v, struct buf *b)
{
	(void)h;
	buf_add(b, v, strlen(v));
}

/* --- the worker --------------------------------------------------------- */

static void
open_worker(void)
{
	struct buf text = { 0 };

	rig_host.state_load = h_load;
	rig_host.repr = h_repr;
	rig_make(&w, dir);
	ck_assert_msg(recover_open(&w, &text, &err) == 0, "%s", err.text);
	buf_fini(&text);
	w.running = w.ready = true;
}

static void
add_key(struct store_job *j, unsigned int i, const char *value)
{
	char key[32];

	snprintf(key, sizeof(key), "k%06u", i);
	store_job_row(j, 0, slice_of(key, strlen(key)), slice_of(value,
	    strlen(value)));
}

/* So many keys in the table, and some that are newer than theirs. */
static void
fill(unsigned int n, uint64_t say)
{
	struct store_job *j;
	unsigned int i;

	rig_dir_make(dir, sizeof(dir));
	open_worker();
	rig_live(&w, "one");
	w.saved_keys[0] = say + 1;		/* with rig_job's "key" */
	j = rig_job(&w, "of the rig", true);
	for (i = 0; i < n; i++)
		add_key(j, i, "old");
	rig_commit(&w, j);
	recover_unlink(&w);
	rig_free(&w);
	open_worker();
	rig_live(&w, "two");
	j = rig_job(&w, "of the rig", false);
	for (i = 0; i < n; i += 1000)
		add_key(j, i, "new");
	rig_commit(&w, j);
	rig_free(&w);
	open_worker();
}

static void
end(void)
{
	rig_free(&w);
	rig_dir_remove(dir);
}

static const char *
value_of(const char *key)
{
	static struct buf b;
	bool found;

	buf_clear(&b);
	ck_assert_msg(automaton_query(&w.a, slice_of("count", 5),
	    slice_of(key, strlen(key)), &b, &found, &err) == 0, "%s",
	    err.text);
	return (found ? buf_str(&b) : "-");
}

static const char *
value_of_number(unsigned int i)
{
	char key[32];

	snprintf(key, sizeof(key), "k%06u", i);
	return (value_of(key));
}

static void
all_slices(void)
{
	int slices = 1;

	while (load_slice(&w))
		slices++;
	ck_assert_int_gt(slices, 0);
	ck_assert_ptr_null(w.reading);
	ck_assert(!w.a.keys[0].partial);
	ck_assert_uint_eq(w.a.keys[0].left, 0);
}

/* As a step does it. */
static struct kent *
change(const char *key, const char *value)
{
	struct keytab *t = &w.a.keys[0];
	struct slice s = slice_of(key, strlen(key));
	struct kent *e;

	(void)value_of(key);
	if ((e = keytab_find(t, s, part_hash(s))) == NULL) {
		e = keytab_add(t, s, part_hash(s));
		w.a.nkeys++;
	}
	free(e->obj);
	e->obj = xstrdup(value);
	keytab_touch(t, e);
	return (e);
}

static void
commit_changed(const char *key, const char *value, bool clean)
{
	struct store_job *j = rig_job(&w, "of the rig", clean);

	store_job_row(j, 0, slice_of(key, strlen(key)), slice_of(value,
	    strlen(value)));
	rig_commit(&w, j);
}

/* --- tests -------------------------------------------------------------- */

START_TEST(test_few)
{
	fill(LOAD_FIRST / 2, LOAD_FIRST / 2);
	ck_assert_ptr_null(w.reading);
	ck_assert(!w.a.keys[0].partial);
	ck_assert_uint_eq(w.a.nkeys, LOAD_FIRST / 2 + 1);
	ck_assert_uint_eq(w.a.keys[0].n, LOAD_FIRST / 2 + 1);
	ck_assert_str_eq(value_of_number(0), "new");
	ck_assert_str_eq(value_of_number(1), "old");
	ck_assert(!load_slice(&w));
	end();
}
END_TEST

START_TEST(test_touched_first)
{
	size_t n;

	fill(KEYS, KEYS);
	ck_assert_ptr_nonnull(w.reading);
	n = w.a.keys[0].n;
	ck_assert(n > LOAD_FIRST / 2 && n <= LOAD_FIRST);
	ck_assert_uint_eq(w.a.nkeys, KEYS + 1);
	ck_assert_str_eq(value_of_number(KEYS - 1), "old");
	ck_assert_uint_eq(w.a.keys[0].n, n + 1);
	/* Newer ones were the first to come; these were not there at all. */
	ck_assert_str_eq(value_of_number((KEYS - 1) / 1000 * 1000), "new");
	ck_assert_str_eq(value_of("a"), "-");
	ck_assert_str_eq(value_of(""), "-");
	ck_assert_str_eq(value_of("zzz"), "-");
	ck_assert_uint_eq(w.a.nkeys, KEYS + 1);
	/* Not while the replay is under way. */
	w.ready = false;
	ck_assert(!load_slice(&w));
	ck_assert_uint_eq(w.a.keys[0].n, n + 1);
	w.ready = true;
	all_slices();
	ck_assert_uint_eq(w.a.keys[0].n, KEYS + 1);
	ck_assert_uint_eq(w.a.nkeys, KEYS + 1);
	ck_assert_str_eq(value_of_number(KEYS - 2), "old");
	ck_assert_str_eq(value_of("zzz"), "-");
	end();
}
END_TEST

START_TEST(test_list_needs_all)
{
	fill(KEYS, KEYS);
	ck_assert_int_eq(load_all(&w, &err), 0);
	ck_assert_uint_eq(w.a.keys[0].n, KEYS + 1);
	ck_assert_int_eq(load_all(&w, &err), 0);
	end();
}
END_TEST

/* Changed and saved before its turn has come; by a commit that merges, too. */
static void
checkpoint_while_loading(bool clean)
{
	char key[32];

	fill(KEYS, KEYS);
	snprintf(key, sizeof(key), "k%06u", (unsigned int)KEYS - 1);
	(void)change(key, "changed");
	(void)change("made", "made");
	ck_assert_uint_eq(w.a.nkeys, KEYS + 2);
	commit_changed(key, "changed", clean);
	commit_changed("made", "made", clean);
	/* The file has it, this reading not: it began before. */
	all_slices();
	ck_assert_str_eq(value_of(key), "changed");
	ck_assert_str_eq(value_of("made"), "made");
	ck_assert_uint_eq(w.a.keys[0].n, KEYS + 2);
	if (clean)
		recover_unlink(&w);
	rig_free(&w);
	open_worker();
	ck_assert_uint_eq(w.a.nkeys, KEYS + 2);
	ck_assert_str_eq(value_of(key), "changed");
	ck_assert_str_eq(value_of("made"), "made");
	all_slices();
	ck_assert_str_eq(value_of(key), "changed");
	end();
}

START_TEST(test_checkpoint_while_loading)
{
	checkpoint_while_loading(false);
	checkpoint_while_loading(true);
}
END_TEST

#define LAST_KEY "(SELECT max(key) FROM state WHERE key < CAST('k1' AS BLOB))"

static void
spoil(const char *sql)
{
	char *text = NULL;

	ck_assert_msg(sqlite3_exec(w.store.db, sql, NULL, NULL, &text) ==
	    SQLITE_OK, "%s", text);
	rig_free(&w);
	open_worker();
}

START_TEST(test_damaged_key)
{
	struct buf b = { 0 };
	bool found;
	char key[32];

	fill(KEYS, KEYS);
	spoil("UPDATE state SET value = CAST('foul' AS BLOB) WHERE key = "
	    LAST_KEY);
	snprintf(key, sizeof(key), "k%06u", (unsigned int)KEYS - 1);
	ck_assert_int_eq(automaton_query(&w.a, slice_of("count", 5),
	    slice_of(key, strlen(key)), &b, &found, &err), -1);
	ck_assert_int_eq(err.code, ERR_CORRUPT);
	ck_assert_ptr_nonnull(strstr(err.text, "the state of a key does not "
	    "match its checksum"));
	ck_assert_int_eq(load_all(&w, &err), -1);
	ck_assert_int_eq(err.code, ERR_CORRUPT);
	end();
}
END_TEST

static void
load_in_slices(void)
{
	while (load_slice(&w))
		continue;
	exit(0);
}

START_TEST(test_missing_key)
{
	char said[512];

	fill(KEYS, KEYS);
	spoil("DELETE FROM state WHERE key = " LAST_KEY);
	ck_assert_int_eq(rig_child(load_in_slices, NULL, said, sizeof(said)),
	    100);
	ck_assert_msg(strstr(said, "keys are missing") != NULL, "%s", said);
	ck_assert_int_eq(load_all(&w, &err), -1);
	end();
}
END_TEST

/* --- the reading itself ------------------------------------------------- */

static int
count_row(void *arg, size_t step, struct slice key, struct slice value)
{
	(void)step;
	(void)key;
	(void)value;
	(*(size_t *)arg)++;
	return (0);
}

static int
refuse_row(void *arg, size_t step, struct slice key, struct slice value)
{
	(void)count_row(arg, step, key, value);
	return (-1);
}

START_TEST(test_each_once)
{
	struct storeread *r;
	struct slice value;
	size_t n = 0, calls = 0;
	int more;

	fill(2500, 2500);
	ck_assert_ptr_nonnull(r = storeread_new(&w.store, &err));
	do {
		more = storeread_next(r, 7, count_row, &n, &err);
		calls++;
	} while (more == 1);
	ck_assert_int_eq(more, 0);
	ck_assert_uint_eq(n, 2501);
	ck_assert_uint_ge(calls, 2501 / 7);
	/* All has been given: nothing is left to find but what is newer. */
	ck_assert_int_eq(storeread_key(r, 0, slice_of("k000001", 7), &value,
	    &err), 0);
	ck_assert_int_eq(storeread_key(r, 0, slice_of("k001000", 7), &value,
	    &err), 1);
	storeread_free(r);
	/* A step at once, and then it does not come again. */
	ck_assert_ptr_nonnull(r = storeread_new(&w.store, &err));
	n = 0;
	ck_assert_int_eq(storeread_step(r, 0, count_row, &n, &err), 0);
	ck_assert_uint_eq(n, 2501);
	ck_assert_int_eq(storeread_next(r, 100, count_row, &n, &err), 0);
	ck_assert_uint_eq(n, 2501);
	storeread_free(r);
	/* Who takes them says no. */
	ck_assert_ptr_nonnull(r = storeread_new(&w.store, &err));
	n = 0;
	ck_assert_int_eq(storeread_next(r, 100, refuse_row, &n, &err), -1);
	ck_assert_int_eq(storeread_step(r, 0, refuse_row, &n, &err), -1);
	ck_assert_uint_eq(n, 2);
	storeread_free(r);
	storeread_free(NULL);
	end();
}
END_TEST

UNIT_MAIN("load", test_few, test_touched_first, test_list_needs_all,
    test_checkpoint_while_loading, test_damaged_key, test_missing_key,
    test_each_once)
