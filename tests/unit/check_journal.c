/* The journal: staging, publishing, laps, reopening, damage. */
#include <sys/resource.h>
#include <sys/stat.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/unit.h"
#include "worker/journal.h"
#include "worker/mapped.h"

#define RING	65536

static char dir[64], path[96];

static void
make_path(void)
{
	snprintf(dir, sizeof(dir), "/tmp/check_journal.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/j", dir);
}

static void
remove_path(void)
{
	unlink(path);
	rmdir(dir);
}

static void
put(struct journal *j, uint64_t off, const char *text)
{
	uint8_t *p = journal_stage(j, ENTRY_BYTES, 7, off, 100, 0);

	memcpy(p, text, strlen(text));
	journal_publish(j, (uint32_t)strlen(text));
}

START_TEST(test_entries_survive_reopening)
{
	struct journal j;
	struct entry *e;
	struct err err;
	bool missing, old_boot;

	make_path();
	ck_assert_int_eq(journal_create(&j, path, RING, 3, 42, 1001, &err), 0);
	ck_assert_uint_eq(journal_tail(&j), 1008);
	put(&j, 0, "hello");
	put(&j, 5, "world!");
	journal_release(&j, entry_end(journal_at(&j, 1008)));
	journal_close(&j);

	ck_assert_int_eq(journal_open(&j, path, 3, &missing, &old_boot, &err),
	    0);
	ck_assert(!missing && !old_boot);
	ck_assert_uint_eq(journal_lineage(&j), 42);
	e = journal_at(&j, 1008);
	ck_assert_ptr_nonnull(e);
	ck_assert_uint_eq(e->len, 5);
	ck_assert_mem_eq(e->data, "hello", 5);
	ck_assert_uint_eq(journal_done(&j), entry_end(e));
	e = journal_at(&j, entry_end(e));
	ck_assert_uint_eq(e->off, 5);
	ck_assert_mem_eq(e->data, "world!", 6);
	ck_assert_uint_eq(entry_end(e), journal_tail(&j));
	journal_close(&j);
	remove_path();
}
END_TEST

START_TEST(test_staged_entry_is_found_until_published)
{
	struct journal j;
	struct entry *e;
	struct err err;
	bool missing, old_boot;

	make_path();
	ck_assert_int_eq(journal_create(&j, path, RING, 0, 1, 0, &err), 0);
	ck_assert_ptr_null(journal_staged(&j));
	memcpy(journal_stage(&j, ENTRY_BYTES, 9, 77, 64, 0), "abc", 3);
	journal_close(&j);
	/* A kill between read(2) and publishing: header and bytes remain. */
	ck_assert_int_eq(journal_open(&j, path, 0, &missing, &old_boot, &err),
	    0);
	e = journal_staged(&j);
	ck_assert_ptr_nonnull(e);
	ck_assert_uint_eq(e->channel, 9);
	ck_assert_uint_eq(e->off, 77);
	ck_assert_uint_eq(e->room, 64);
	journal_publish(&j, 3);
	ck_assert_mem_eq(journal_at(&j, 0)->data, "abc", 3);
	ck_assert_ptr_null(journal_staged(&j));
	journal_close(&j);
	remove_path();
}
END_TEST

START_TEST(test_many_laps)
{
	struct journal j;
	struct entry *e;
	struct err err;
	uint64_t seed = 1, at, off = 0;
	uint32_t i, k, len;
	uint8_t *p;

	ck_assert_int_eq(journal_create(&j, NULL, RING, 0, 1, 0, &err), 0);
	for (i = 0; i < 20000; i++) {
		len = (uint32_t)(unit_random(&seed) % 3000) + 1;
		while (journal_used(&j) + entry_size(len) > RING) {
			at = journal_head_pos(&j);
			e = journal_at(&j, at);
			ck_assert_ptr_nonnull(e);
			for (k = 0; k < e->len && e->data[k] ==
			    ((e->off + k) & 0xff); k++)
				continue;
			ck_assert_uint_eq(k, e->len);
			journal_release(&j, entry_end(e));
			journal_free(&j, entry_end(e));
			ck_assert_uint_eq(journal_head_pos(&j), entry_end(e));
		}
		p = journal_stage(&j, ENTRY_FILE, 1, off, len, 0);
		for (k = 0; k < len; k++)
			p[k] = (uint8_t)(off + k);
		journal_publish(&j, len);
		off += len;
		/* What an earlier lap left is not mistaken for staged. */
		ck_assert_ptr_null(journal_staged(&j));
	}
	ck_assert_uint_gt(journal_tail(&j), 100 * RING);
	journal_close(&j);
}
END_TEST

START_TEST(test_freeing_is_by_whole_entries_and_idempotent)
{
	struct journal j;
	struct err err;
	uint64_t second;

	ck_assert_int_eq(journal_create(&j, NULL, RING, 0, 1, 0, &err), 0);
	put(&j, 0, "one");
	second = journal_tail(&j);
	put(&j, 3, "two");
	journal_release(&j, journal_tail(&j));
	journal_free(&j, second + ENTRY_HEADER + 1);
	ck_assert_uint_eq(journal_head_pos(&j), second);
	journal_free(&j, second);
	ck_assert_uint_eq(journal_head_pos(&j), second);
	journal_free(&j, journal_tail(&j));
	ck_assert_uint_eq(journal_used(&j), 0);
	journal_close(&j);
}
END_TEST

START_TEST(test_time_never_goes_back)
{
	struct journal j;
	struct err err;
	uint64_t second;

	ck_assert_int_eq(journal_create(&j, NULL, RING, 0, 1, 0, &err), 0);
	j.clock_ns = UINT64_MAX / 2;
	put(&j, 0, "one");
	second = journal_tail(&j);
	put(&j, 3, "two");
	ck_assert_uint_ge(journal_at(&j, second)->time_ns, UINT64_MAX / 2);
	journal_close(&j);
}
END_TEST

static void
flip(off_t at)
{
	uint8_t b;
	int fd = open(path, O_RDWR);

	ck_assert_int_ne(fd, -1);
	ck_assert_int_eq(pread(fd, &b, 1, at), 1);
	b ^= 0x40;
	ck_assert_int_eq(pwrite(fd, &b, 1, at), 1);
	close(fd);
}

START_TEST(test_damage_is_refused)
{
	struct journal j;
	struct err err;
	bool missing, old_boot;
	off_t at;

	make_path();
	ck_assert_int_eq(journal_create(&j, path, RING, 0, 1, 0, &err), 0);
	put(&j, 0, "one");
	put(&j, 3, "two");
	journal_close(&j);
	for (at = 4096; at < 4096 + 48; at++) {	/* every header byte */
		flip(at);
		ck_assert_int_eq(journal_open(&j, path, 0, &missing,
		    &old_boot, &err), -1);
		ck_assert_int_eq(err.code, ERR_CORRUPT);
		flip(at);
	}
	flip(0);				/* magic */
	ck_assert_int_eq(journal_open(&j, path, 0, &missing, &old_boot, &err),
	    -1);
	flip(0);
	ck_assert_int_eq(journal_open(&j, path, 5, &missing, &old_boot, &err),
	    -1);
	ck_assert_ptr_nonnull(strstr(err.text, "belongs to worker 0"));
	ck_assert_int_eq(truncate(path, 4096 + 4096), 0);
	ck_assert_int_eq(journal_open(&j, path, 0, &missing, &old_boot, &err),
	    -1);
	ck_assert_int_eq(err.code, ERR_CORRUPT);
	remove_path();
}
END_TEST

START_TEST(test_missing_and_unfinished)
{
	struct journal j;
	struct err err;
	bool missing, old_boot;
	int fd;

	make_path();
	ck_assert_int_eq(journal_open(&j, path, 0, &missing, &old_boot, &err),
	    -1);
	ck_assert(missing);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	ck_assert_int_eq(ftruncate(fd, 4096 + RING), 0);
	close(fd);
	ck_assert_int_eq(journal_open(&j, path, 0, &missing, &old_boot, &err),
	    -1);
	ck_assert(missing);		/* created, but never finished */
	ck_assert_int_eq(journal_create(&j, path, RING, 0, 1, 0, &err), -1);
	ck_assert_int_eq(err.code, ERR_STORAGE);
	remove_path();
}
END_TEST

/* --- what a power loss leaves -------------------------------------------- */

#define ENTRIES	12

static uint64_t ends[ENTRIES + 1];

/* A sealed journal in its second lap, of a boot that is no more. */
static void
make_lost(uint64_t *from)
{
	struct journal j;
	struct entry *e;
	struct err err;
	uint64_t seed = 3;
	uint32_t i, k, len;
	uint8_t *p;

	make_path();
	ck_assert_int_eq(journal_create(&j, path, RING, 0, 9, 0, &err), 0);
	journal_seal(&j);
	for (i = 0; i < 40; i++) {
		len = 3000 + (uint32_t)(unit_random(&seed) % 500);
		while (journal_used(&j) + entry_size(len) > RING) {
			e = journal_at(&j, journal_head_pos(&j));
			journal_release(&j, journal_tail(&j));
			journal_free(&j, entry_end(e));
		}
		p = journal_stage(&j, ENTRY_FILE, 1, 0, len, 0);
		for (k = 0; k < len; k++)
			p[k] = (uint8_t)unit_random(&seed);
		journal_publish(&j, len);
		if (i + ENTRIES >= 40)
			ends[i + ENTRIES - 39] = journal_tail(&j);
		if (i + ENTRIES == 39)
			ends[0] = journal_tail(&j);
	}
	*from = ends[0];
	journal_distrust(&j);
	journal_close(&j);
}

static uint64_t
prove(uint64_t from)
{
	struct journal j;
	struct err err;
	bool missing, old_boot;
	uint64_t tail;

	ck_assert_int_eq(journal_open(&j, path, 0, &missing, &old_boot, &err),
	    0);
	ck_assert(old_boot);
	journal_prove(&j, from);
	tail = journal_tail(&j);
	ck_assert_uint_eq(journal_head_pos(&j), from);
	ck_assert_uint_eq(journal_done(&j), from);
	journal_close(&j);
	return (tail);
}

START_TEST(test_whole_prefix_is_proven)
{
	uint64_t from;
	uint8_t junk[64];
	int fd;

	make_lost(&from);
	ck_assert_uint_eq(prove(from), ends[ENTRIES]);
	/* The words in the head prove nothing, whatever they are. */
	fd = open(path, O_RDWR);
	memset(junk, 0xff, sizeof(junk));
	ck_assert_int_eq(pwrite(fd, junk, 24, 48), 24);
	ck_assert_uint_eq(prove(from), ends[ENTRIES]);
	memset(junk, 0, sizeof(junk));
	ck_assert_int_eq(pwrite(fd, junk, 24, 48), 24);
	ck_assert_uint_eq(prove(from), ends[ENTRIES]);
	close(fd);
	remove_path();
}
END_TEST

/* Sectors of the last entries did not reach the disk, at every boundary. */
START_TEST(test_torn_pages)
{
	uint8_t before[512], torn[512];
	uint64_t from, at, expected, pos;
	int fd, i, kind;

	make_lost(&from);
	fd = open(path, O_RDWR);
	for (at = from / 512 * 512; at < ends[ENTRIES]; at += 512)
		for (kind = 0; kind < 3; kind++) {
			pos = 4096 + at % RING;
			ck_assert_int_eq(pread(fd, before, 512, (off_t)pos),
			    512);
			memcpy(torn, before, 512);
			if (kind == 0)
				memset(torn, 0, 512);
			else if (kind == 1)
				torn[511] ^= 1;
			else
				torn[0] ^= 0x80;
			ck_assert_int_eq(pwrite(fd, torn, 512, (off_t)pos),
			    512);
			/* The entry that holds the first changed byte. */
			pos = kind == 1 ? at + 511 : at;
			if (kind == 0 && pos < from)
				pos = from;
			expected = ends[ENTRIES];
			for (i = 0; i < ENTRIES; i++)
				if (pos >= ends[i] && pos < ends[i + 1])
					expected = ends[i];
			if (prove(from) != expected)
				/* Padding between two entries is not sealed,
				 * and a byte may be what it was. */
				ck_assert_uint_gt(prove(from), expected);
			if (prove(from) > expected) {
				for (i = 0; ends[i] <= expected; i++)
					continue;
				ck_assert_uint_ge(pos + 8, ends[i]);
			}
			ck_assert_int_eq(pwrite(fd, before, 512, (off_t)(4096 +
			    at % RING)), 512);
		}
	ck_assert_uint_eq(prove(from), ends[ENTRIES]);
	close(fd);
	remove_path();
}
END_TEST

START_TEST(test_cut_leaves_nothing_behind_it)
{
	struct journal j;
	struct err err;
	bool missing, old_boot;
	uint64_t from;
	uint32_t i;

	make_lost(&from);
	ck_assert_int_eq(journal_open(&j, path, 0, &missing, &old_boot, &err),
	    0);
	journal_prove(&j, from);
	ck_assert_int_eq(journal_cut(&j, path, ends[5], &err), 0);
	ck_assert_uint_eq(journal_tail(&j), ends[5]);
	for (i = 0; i < 5; i++)
		ck_assert_ptr_nonnull(journal_at(&j, ends[i]));
	for (i = 5; i < ENTRIES; i++)
		ck_assert_ptr_null(journal_at(&j, ends[i]));
	journal_close(&j);
	/* It is of this boot now, and goes on. */
	ck_assert_int_eq(journal_open(&j, path, 0, &missing, &old_boot, &err),
	    0);
	ck_assert(!old_boot);
	ck_assert_uint_eq(journal_tail(&j), ends[5]);
	put(&j, 0, "again");
	journal_distrust(&j);
	journal_close(&j);
	ck_assert_uint_eq(prove(from), ends[5] + entry_size(5));
	remove_path();
}
END_TEST

START_TEST(test_sealed_journal_of_this_boot_is_checked)
{
	struct journal j;
	struct err err;
	bool missing, old_boot;
	uint64_t tail;
	uint8_t byte;
	int fd;

	make_path();
	ck_assert_int_eq(journal_create(&j, path, RING, 0, 9, 0, &err), 0);
	journal_seal(&j);
	put(&j, 0, "hello");
	put(&j, 5, "world");
	tail = journal_tail(&j);
	journal_close(&j);
	fd = open(path, O_RDWR);
	ck_assert_int_eq(pread(fd, &byte, 1, (off_t)(4096 + ENTRY_HEADER)),
	    1);
	ck_assert_int_eq(byte, 'h');
	byte = 'j';
	ck_assert_int_eq(pwrite(fd, &byte, 1, (off_t)(4096 + ENTRY_HEADER)),
	    1);
	ck_assert_int_eq(journal_open(&j, path, 0, &missing, &old_boot, &err),
	    -1);
	ck_assert_int_eq(err.code, ERR_CORRUPT);
	/* When it may be that nothing is believed, nothing is. */
	ck_assert_int_eq(journal_disown(path, &err), 0);
	ck_assert_uint_eq(prove(0), 0);
	byte = 'h';
	ck_assert_int_eq(pwrite(fd, &byte, 1, (off_t)(4096 + ENTRY_HEADER)),
	    1);
	ck_assert_uint_eq(prove(0), tail);
	close(fd);
	remove_path();
}
END_TEST

START_TEST(test_retired_file_is_copied)
{
	struct journal j;
	struct err err;
	bool missing, old_boot;
	struct stat first, second;
	uint64_t yes = 1;
	char other[128];
	int fd;

	make_path();
	ck_assert_int_eq(journal_create(&j, path, RING, 0, 9, 0, &err), 0);
	journal_seal(&j);
	put(&j, 0, "hello");
	journal_close(&j);
	ck_assert_int_eq(mapped_renew(path, &err), 0);
	ck_assert_int_eq(stat(path, &first), 0);
	fd = open(path, O_RDWR);
	ck_assert_int_eq(pwrite(fd, &yes, sizeof(yes), MAPPED_RETIRED),
	    sizeof(yes));
	close(fd);
	ck_assert_int_eq(mapped_renew(path, &err), 1);
	ck_assert_int_eq(stat(path, &second), 0);
	ck_assert(first.st_ino != second.st_ino);
	ck_assert_int_eq(mapped_renew(path, &err), 0);
	ck_assert_int_eq(journal_open(&j, path, 0, &missing, &old_boot, &err),
	    0);
	ck_assert_mem_eq(journal_at(&j, 0)->data, "hello", 5);
	journal_close(&j);
	snprintf(other, sizeof(other), "%s.new", path);
	ck_assert_int_eq(access(other, F_OK), -1);
	ck_assert_int_eq(mapped_renew("/nonexistent/j", &err), 0);
	remove_path();
}
END_TEST

/* --- copies --------------------------------------------------------------- */

/* Of one that goes on being written: from where it begins now to where it
 * ended when the copy began. */
START_TEST(test_copy)
{
	struct journal j, k;
	struct err err;
	bool missing, old_boot;
	uint64_t head, tail;
	char to[128];

	make_path();
	snprintf(to, sizeof(to), "%s.copy", path);
	ck_assert_int_eq(journal_create(&j, path, RING, 3, 9, 0, &err), 0);
	put(&j, 0, "freed");
	put(&j, 5, "hello");
	journal_release(&j, journal_tail(&j));
	journal_free(&j, entry_end(journal_at(&j, 0)));
	tail = journal_tail(&j);
	ck_assert_int_eq(journal_copy(path, to, 3, &head, &err), 0);
	put(&j, 10, "later");
	journal_close(&j);
	ck_assert_int_eq(journal_open(&k, to, 3, &missing, &old_boot, &err),
	    0);
	ck_assert_uint_eq(journal_head_pos(&k), head);
	ck_assert_uint_eq(journal_tail(&k), tail);
	ck_assert_mem_eq(journal_at(&k, head)->data, "hello", 5);
	journal_close(&k);
	/* Nothing that is there is written over. */
	ck_assert_int_eq(journal_copy(path, to, 3, &head, &err), -1);
	ck_assert_int_eq(err.code, ERR_STORAGE);
	ck_assert_ptr_nonnull(strstr(err.text, "cannot create"));
	unlink(to);
	remove_path();
}
END_TEST

static void
no_copy(uint32_t worker, const char *why)
{
	struct err err;
	uint64_t head;
	char to[128];

	snprintf(to, sizeof(to), "%s.copy", path);
	ck_assert_int_eq(journal_copy(path, to, worker, &head, &err), -1);
	ck_assert_msg(strstr(err.text, why) != NULL, "%s", err.text);
	ck_assert_ptr_nonnull(strstr(err.text, dir));
	unlink(to);
}

START_TEST(test_copies_that_fail)
{
	struct rlimit was, small;
	struct journal j;
	struct err err;

	make_path();
	no_copy(3, "cannot open");
	ck_assert_int_eq(journal_create(&j, path, RING, 3, 9, 0, &err), 0);
	put(&j, 0, "hello");
	journal_close(&j);
	no_copy(4, "belongs to worker 3, not 4");
	/* As a full disk: half of it is written. */
	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &was), 0);
	small = was;
	small.rlim_cur = 5000;
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
	no_copy(3, "cannot write");
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &was), 0);
	signal(SIGXFSZ, SIG_DFL);
	ck_assert_int_eq(truncate(path, 5000), 0);
	no_copy(3, "has 5000 bytes, its header says");
	ck_assert_int_eq(truncate(path, 3), 0);
	no_copy(3, "cannot read");
	remove_path();
}
END_TEST

/* --- words that disagree -------------------------------------------------- */

/* Head, done and tail in the file's head, which are all `start` now. */
static uint64_t *
words(struct journal *j, uint64_t start)
{
	uint64_t *w = (uint64_t *)(void *)j->h;
	size_t i;

	for (i = 0; i < 64; i++)
		if (w[i] == start && w[i + 1] == start && w[i + 2] == start)
			return (&w[i]);
	ck_abort_msg("no positions in the head");
}

START_TEST(test_positions_that_disagree)
{
	static const uint64_t bad[][3] = {
		{ 1016, 1008, 1008 },		/* head above done */
		{ 1008, 1016, 1008 },		/* done above tail */
		{ 1008, 1008, 1008 + RING + 8 },	/* more than it holds */
		{ 1001, 1008, 1008 },		/* no multiples of 8 */
		{ 1008, 1008, 1009 },
		{ (uint64_t)1 << 63, (uint64_t)1 << 63, (uint64_t)1 << 63 },
	};
	struct journal j;
	struct err err;
	bool missing, old_boot;
	size_t i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		make_path();
		ck_assert_int_eq(journal_create(&j, path, RING, 3, 42, 1008,
		    &err), 0);
		memcpy(words(&j, 1008), bad[i], sizeof(bad[i]));
		journal_close(&j);
		ck_assert_int_eq(journal_open(&j, path, 3, &missing,
		    &old_boot, &err), -1);
		ck_assert_int_eq(err.code, ERR_CORRUPT);
		ck_assert(!missing);
		ck_assert_ptr_nonnull(strstr(err.text, "positions disagree"));
		remove_path();
	}
}
END_TEST

/* What failed to be cut is as it was, for another attempt. */
START_TEST(test_cuts_that_fail)
{
	struct journal j;
	struct err err;
	bool missing, old_boot;
	uint64_t from;
	int fd;

	make_lost(&from);
	ck_assert_int_eq(journal_open(&j, path, 0, &missing, &old_boot, &err),
	    0);
	journal_prove(&j, from);
	journal_release(&j, journal_tail(&j));
	fd = j.fd;
	j.fd = open(path, O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(journal_cut(&j, path, ends[5], &err), -1);
	ck_assert_int_eq(err.code, ERR_STORAGE);
	close(j.fd);
	j.fd = fd;
	journal_close(&j);
	ck_assert_uint_eq(prove(from), ends[ENTRIES]);
	remove_path();
	ck_assert_int_eq(journal_disown("/nonexistent/j", &err), -1);
	ck_assert_int_eq(err.code, ERR_STORAGE);
}
END_TEST

UNIT_MAIN("journal", test_entries_survive_reopening,
    test_staged_entry_is_found_until_published, test_many_laps,
    test_freeing_is_by_whole_entries_and_idempotent,
    test_time_never_goes_back, test_damage_is_refused,
    test_missing_and_unfinished, test_whole_prefix_is_proven,
    test_torn_pages, test_cut_leaves_nothing_behind_it,
    test_sealed_journal_of_this_boot_is_checked,
    test_retired_file_is_copied, test_copy, test_copies_that_fail,
    test_positions_that_disagree, test_cuts_that_fail)
