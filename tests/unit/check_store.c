/* Checkpoints in SQLite: what is committed is what is read, newest first to
 * count; what is torn, foreign or somebody else's is refused. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/mem.h"
#include "tests/unit/unit.h"
#include "worker/store.h"

static char dir[64], path[96];
static const char *const steps[] = { "count", NULL, "total" };

static void
make_path(void)
{
	/* Thousands of files: where syncing them costs nothing. */
	snprintf(dir, sizeof(dir), "%s/check_store.XXXXXX",
	    access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
}

static void
remove_path(void)
{
	static const char *const ends[] = { "", "-wal", "-shm" };
	char name[128];
	size_t i;

	for (i = 0; i < 3; i++) {
		snprintf(name, sizeof(name), "%s%s", path, ends[i]);
		unlink(name);
	}
	rmdir(dir);
}

static void
open_store(struct store *s, struct store_meta *m)
{
	struct err err;

	ck_assert_int_eq(store_open(s, path, 1, steps, 3, m, &err), 0);
}

static struct store_job *
job(uint64_t position)
{
	struct store_job *j = xcalloc(1, sizeof(*j));

	j->position = position;
	j->lineage = 7;
	buf_add(&j->automaton, "automaton", 9);
	return (j);
}

static void
add(struct store_job *j, size_t step, const char *key, const char *value)
{
	store_job_row(j, step, slice_of(key, strlen(key)),
	    slice_of(value, strlen(value)));
}

static void
commit(struct store *s, struct store_job *j)
{
	struct err err;

	ck_assert_int_eq(store_commit(s, j, &err), 0);
	store_job_free(j);
}

/* "step/key=value " of every key as it stands in the end, as they came. */
struct seen {
	struct { size_t step; char key[32], value[32]; } row[64];
	size_t n;
};

static int
see(void *arg, size_t step, struct slice key, struct slice value)
{
	struct seen *s = arg;
	size_t i;

	ck_assert_uint_lt(key.len, 32);
	ck_assert_uint_lt(value.len, 32);
	for (i = 0; i < s->n; i++)
		if (s->row[i].step == step &&
		    strlen(s->row[i].key) == key.len &&
		    memcmp(s->row[i].key, key.data, key.len) == 0)
			break;
	ck_assert_uint_lt(i, 64);
	s->row[i].step = step;
	memcpy(s->row[i].key, key.data, key.len);
	s->row[i].key[key.len] = '\0';
	memcpy(s->row[i].value, value.data, value.len);
	s->row[i].value[value.len] = '\0';
	if (i == s->n)
		s->n++;
	return (0);
}

static int
see_box(void *arg, uint32_t box, struct slice head, struct slice body)
{
	struct seen *s = arg;

	ck_assert_uint_eq(box, 3);
	return (see(s, 63, head, body));
}

static const char *
value_of(struct store *s, size_t step, const char *key)
{
	static struct seen seen;
	struct err err;
	size_t i;

	memset(&seen, 0, sizeof(seen));
	ck_assert_int_eq(store_rows(s, see, &seen, &err), 0);
	for (i = 0; i < seen.n; i++)
		if (seen.row[i].step == step &&
		    strcmp(seen.row[i].key, key) == 0)
			return (seen.row[i].value);
	return ("-");
}

static int
integer(const char *sql)
{
	sqlite3_stmt *st;
	sqlite3 *db;
	int v;

	ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
	ck_assert_int_eq(sqlite3_prepare_v2(db, sql, -1, &st, NULL),
	    SQLITE_OK);
	ck_assert_int_eq(sqlite3_step(st), SQLITE_ROW);
	v = sqlite3_column_int(st, 0);
	sqlite3_finalize(st);
	sqlite3_close(db);
	return (v);
}

static void
execute(const char *sql)
{
	sqlite3 *db;

	ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
	ck_assert_int_eq(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
}

START_TEST(test_the_newest_counts)
{
	struct store_job *j;
	struct store_meta m;
	struct store s;

	make_path();
	open_store(&s, &m);
	ck_assert(!m.exists);
	add(j = job(8), 0, "a", "1");
	add(j, 2, "a", "10");
	add(j, 0, "", "empty");
	commit(&s, j);
	add(j = job(16), 0, "a", "2");
	add(j, 0, "b", "");
	commit(&s, j);
	store_close(&s);
	open_store(&s, &m);
	ck_assert(m.exists && !m.clean);
	ck_assert_uint_eq(m.position, 16);
	ck_assert_uint_eq(m.lineage, 7);
	ck_assert_uint_eq(m.automaton.len, 9);
	buf_fini(&m.automaton);
	ck_assert_str_eq(value_of(&s, 0, "a"), "2");
	ck_assert_str_eq(value_of(&s, 2, "a"), "10");
	ck_assert_str_eq(value_of(&s, 0, ""), "empty");
	ck_assert_str_eq(value_of(&s, 0, "b"), "");
	store_close(&s);
	remove_path();
}
END_TEST

START_TEST(test_a_clean_file_has_all_in_one_table)
{
	struct store_job *j;
	struct store_meta m;
	struct store s;

	make_path();
	open_store(&s, &m);
	add(j = job(8), 0, "a", "1");
	add(j, 0, "b", "1");
	commit(&s, j);
	add(j = job(16), 0, "a", "2");
	commit(&s, j);
	ck_assert_int_eq(integer("SELECT count(*) FROM delta"), 2);
	ck_assert_int_eq(integer("SELECT count(*) FROM state"), 0);
	add(j = job(24), 0, "c", "3");
	add(j, 0, "c", "4");
	j->clean = j->sync = true;
	commit(&s, j);
	ck_assert_int_eq(integer("SELECT count(*) FROM delta"), 0);
	ck_assert_int_eq(integer("SELECT count(*) FROM state"), 3);
	ck_assert_str_eq(value_of(&s, 0, "a"), "2");
	ck_assert_str_eq(value_of(&s, 0, "b"), "1");
	ck_assert_str_eq(value_of(&s, 0, "c"), "4");
	store_close(&s);
	remove_path();
}
END_TEST

/* No bytes: there is no such key, whatever older rows say. */
START_TEST(test_keys_that_have_expired)
{
	struct store_job *j;
	struct store_meta m;
	struct store s;

	make_path();
	open_store(&s, &m);
	add(j = job(8), 0, "a", "1");
	add(j, 0, "b", "1");
	j->clean = true;
	commit(&s, j);
	add(j = job(16), 0, "a", "");
	add(j, 0, "b", "");
	add(j, 0, "c", "2");
	add(j, 0, "none", "");
	commit(&s, j);
	add(j = job(24), 0, "c", "");
	add(j, 0, "b", "3");			/* it came again */
	j->clean = true;
	commit(&s, j);
	ck_assert_int_eq(integer("SELECT count(*) FROM delta"), 0);
	ck_assert_int_eq(integer("SELECT count(*) FROM state"), 1);
	ck_assert_str_eq(value_of(&s, 0, "b"), "3");
	store_close(&s);
	remove_path();
}
END_TEST

START_TEST(test_many_rows_are_merged)
{
	char key[16], value[24];
	struct store_job *j;
	struct store_meta m;
	struct store s;
	int round, i;

	make_path();
	open_store(&s, &m);
	for (round = 0; round < 40; round++) {
		j = job((uint64_t)(round + 1) * 8);
		for (i = 0; i < 20000; i++) {
			snprintf(key, sizeof(key), "k%d", i % 40);
			snprintf(value, sizeof(value), "%d.%d", round, i);
			add(j, 0, key, value);
		}
		commit(&s, j);
	}
	/* Bounded: what waits to be merged is less than was written. */
	ck_assert_uint_gt(s.delta, 0);
	ck_assert_int_lt(integer("SELECT count(*) FROM delta"), 40);
	ck_assert_int_eq(integer("SELECT count(*) FROM state"), 40);
	ck_assert_str_eq(value_of(&s, 0, "k39"), "39.19999");
	store_close(&s);
	remove_path();
}
END_TEST

/* Adding one must not take long. */
START_TEST(test_rows_are_not_copied)
{
	struct store_job *j = job(8);
	const uint8_t *at = NULL;
	char key[16];

	for (int i = 0; j->rows.len < 20 << 20; i++) {
		(void)snprintf(key, sizeof(key), "key%d", i);
		add(j, 0, key, "a value of a usual size");
		if (j->rows.len > 200 << 10 && at == NULL)
			at = j->rows.data;
		ck_assert(at == NULL || at == j->rows.data);
	}
	ck_assert_ptr_nonnull(at);
	store_job_free(j);
}
END_TEST

START_TEST(test_a_dropped_step_stays_away)
{
	struct store_job *j;
	struct store_meta m;
	struct store s;

	make_path();
	open_store(&s, &m);
	add(j = job(8), 2, "old", "1");
	commit(&s, j);
	store_close(&s);
	execute("DELETE FROM steps WHERE name = 'total'");
	open_store(&s, &m);		/* a new step of that name */
	buf_fini(&m.automaton);
	ck_assert_str_eq(value_of(&s, 2, "old"), "-");
	j = job(16);
	j->clean = true;
	commit(&s, j);
	ck_assert_int_eq(integer("SELECT count(*) FROM state"), 0);
	store_close(&s);
	remove_path();
}
END_TEST

START_TEST(test_torn_rows_are_refused)
{
	struct store_job *j;
	struct store_meta m;
	struct seen seen;
	struct store s;
	struct err err;

	make_path();
	open_store(&s, &m);
	add(j = job(8), 0, "a", "1");
	commit(&s, j);
	execute("UPDATE delta SET rows = substr(rows, 1, length(rows) - 1)");
	memset(&seen, 0, sizeof(seen));
	ck_assert_int_eq(store_rows(&s, see, &seen, &err), -1);
	ck_assert_int_eq(err.code, ERR_CORRUPT);
	ck_assert_ptr_nonnull(strstr(err.text, path));
	j = job(16);
	j->clean = true;
	ck_assert_int_eq(store_commit(&s, j, &err), -1);
	ck_assert_int_eq(err.code, ERR_CORRUPT);
	store_job_free(j);
	store_close(&s);
	remove_path();
}
END_TEST

START_TEST(test_one_owner)
{
	struct store_meta m;
	struct store old, s;
	struct store_job *j;
	struct err err;

	make_path();
	open_store(&old, &m);
	open_store(&s, &m);
	add(j = job(8), 0, "a", "1");
	ck_assert_int_eq(store_commit(&old, j, &err), -1);
	ck_assert_int_eq(err.code, ERR_REFUSED);
	store_job_free(j);
	add(j = job(8), 0, "a", "2");
	commit(&s, j);
	ck_assert_str_eq(value_of(&old, 0, "a"), "2");
	store_close(&old);
	store_close(&s);
	remove_path();
}
END_TEST

START_TEST(test_foreign_files_are_refused)
{
	struct store_meta m;
	struct store s;
	struct err err;
	FILE *f;

	make_path();
	f = fopen(path, "w");
	fprintf(f, "%5000s", "not a database");
	fclose(f);
	ck_assert_int_eq(store_open(&s, path, 1, steps, 3, &m, &err), -1);
	ck_assert_int_eq(err.code, ERR_CORRUPT);
	unlink(path);
	open_store(&s, &m);
	store_close(&s);
	ck_assert_int_eq(store_open(&s, path, 2, steps, 3, &m, &err), -1);
	ck_assert_int_eq(err.code, ERR_CORRUPT);
	execute("PRAGMA user_version = 9");
	ck_assert_int_eq(store_open(&s, path, 1, steps, 3, &m, &err), -1);
	ck_assert_int_eq(err.code, ERR_CORRUPT);
	ck_assert_ptr_nonnull(strstr(err.text, "version 9"));
	remove_path();
}
END_TEST

START_TEST(test_what_was_changed_is_refused)
{
	static const char *const changes[] = {
		"UPDATE meta SET has_checkpoint = 0",
		"UPDATE meta SET clean = 0", "UPDATE meta SET lineage = 8",
		"UPDATE meta SET position = 9",
		"UPDATE meta SET automaton = x'00'",
		"UPDATE state SET value = x'00' WHERE key = x'61'",
		"UPDATE state SET step = 2 WHERE key = x'61'",
		"UPDATE outbox SET body = x''", "UPDATE outbox SET box = 7",
		"UPDATE steps SET name = 'other' WHERE name = 'count'",
		"INSERT INTO delta VALUES (1, 0, x'', x'')",
	};
	struct seen seen;
	struct store_job *j;
	struct store_meta m;
	struct store s;
	struct err err;
	size_t i;

	for (i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		make_path();
		open_store(&s, &m);
		add(j = job(8), 0, "a", "1");
		add(j, 0, "b", "2");
		store_job_box(j, 3, slice_of("head", 4), slice_of("body", 4));
		j->clean = j->remake = true;
		commit(&s, j);
		store_close(&s);
		execute(changes[i]);
		memset(&seen, 0, sizeof(seen));
		memset(&err, 0, sizeof(err));
		if (store_open(&s, path, 1, steps, 3, &m, &err) == 0) {
			buf_fini(&m.automaton);
			if (store_rows(&s, see, &seen, &err) == 0)
				ck_assert_int_eq(store_boxes(&s, see_box,
				    &seen, &err), -1);
			store_close(&s);
		}
		ck_assert_msg(err.code == ERR_CORRUPT, "%s", changes[i]);
		ck_assert_ptr_nonnull(strstr(err.text, "restore"));
		remove_path();
	}
}
END_TEST

static void
write_file(const uint8_t *data, size_t len)
{
	FILE *f = fopen(path, "w");

	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(fwrite(data, 1, len, f), len);
	ck_assert_int_eq(fclose(f), 0);
}

/* 0: opened, and all of it is as it was; 1: refused; 2: rows are missing,
 * which their number in the automaton tells. */
static int
judge(void)
{
	struct store_meta m;
	struct store s;
	struct seen seen;
	struct err err;
	size_t i;
	int r = 1;

	memset(&seen, 0, sizeof(seen));
	if (store_open(&s, path, 1, steps, 3, &m, &err) == -1)
		return (1);
	if (store_rows(&s, see, &seen, &err) == 0 &&
	    store_boxes(&s, see_box, &seen, &err) == 0) {
		ck_assert(m.exists && m.lineage == 7 && m.position == 16 &&
		    m.automaton.len == 9);
		for (i = 0; i < seen.n; i++)
			ck_assert_int_eq(seen.row[i].value[0],
			    seen.row[i].key[0]);
		r = seen.n == 2 * 26 + 1 ? 0 : 2;
	}
	buf_fini(&m.automaton);
	store_close(&s);
	return (r);
}

/* A bit that the disk has turned over: refused, or it did not matter. */
static void
turn_bits(bool clean)
{
	static uint8_t good[256 * 1024], bad[256 * 1024];
	char key[2] = "", value[20];
	uint64_t random = 7;
	int verdict[3] = { 0, 0, 0 }, i;
	struct store_job *j;
	struct store_meta m;
	struct store s;
	size_t len, at;
	FILE *f;

	make_path();
	open_store(&s, &m);
	for (j = job(8), i = 0; i < 26; i++) {
		snprintf(key, sizeof(key), "%c", 'a' + i);
		snprintf(value, sizeof(value), "%c%d", 'a' + i, i);
		add(j, 0, key, value);
		add(j, 2, key, value);
	}
	commit(&s, j);
	j = job(16);
	store_job_box(j, 3, slice_of("a", 1), slice_of("a", 1));
	j->remake = true;
	j->clean = clean;		/* else it is in `delta` */
	commit(&s, j);
	store_close(&s);
	ck_assert_ptr_nonnull(f = fopen(path, "r"));
	len = fread(good, 1, sizeof(good), f);
	fclose(f);
	ck_assert_uint_gt(len, 8192);
	ck_assert_int_eq(judge(), 0);
	for (i = 0; i < 800; i++) {
		memcpy(bad, good, len);
		at = unit_random(&random) % len;
		bad[at] ^= (uint8_t)(1 << unit_random(&random) % 8);
		write_file(bad, len);
		verdict[judge()]++;
		remove_path();
		make_path();
	}
	/* The file is small and mostly empty. */
	ck_assert_int_gt(verdict[1], 10);
	ck_assert_int_gt(verdict[0], 100);
	remove_path();
}

START_TEST(test_bits_of_a_clean_file)
{
	turn_bits(true);
}
END_TEST

START_TEST(test_bits_of_a_file_in_use)
{
	turn_bits(false);
}
END_TEST

UNIT_MAIN("store", test_the_newest_counts,
    test_a_clean_file_has_all_in_one_table, test_keys_that_have_expired,
    test_many_rows_are_merged, test_rows_are_not_copied,
    test_a_dropped_step_stays_away, test_torn_rows_are_refused,
    test_one_owner, test_foreign_files_are_refused,
    test_what_was_changed_is_refused, test_bits_of_a_clean_file,
    test_bits_of_a_file_in_use)
