/* Outboxes: growing, freeing, cutting, reopening. */
#include <sys/stat.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/unit.h"
#include "worker/outbox.h"

#define LIMIT	(8 << 20)

static char dir[64], path[96];

static void
make_path(void)
{
	snprintf(dir, sizeof(dir), "/tmp/check_outbox.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/o", dir);
}

static void
remove_path(void)
{
	unlink(path);
	rmdir(dir);
}

/* A frame of len bytes that count from its payload offset. */
static int
put(struct outbox *o, uint64_t pos, uint32_t len, struct err *err)
{
	uint8_t *body = malloc(len + 1);
	uint32_t i, lens[2] = { len / 2, len - len / 2 };
	struct frame f = { .pos = pos, .index = 1, .records = 2 };

	if (outbox_reserve(o, FRAME_HEADER + len + 8, err) == -1) {
		free(body);
		return (-1);
	}
	for (i = 0; i < len; i++)
		body[i] = (uint8_t)(o->payload_tail + i);
	outbox_append(o, &f, slice_of(body, len), lens);
	free(body);
	return (0);
}

static uint64_t
check_frame(const struct outbox *o, uint64_t off, uint64_t pos)
{
	struct frame f;
	uint64_t next = outbox_frame(o, off, &f);
	uint8_t *body = malloc(f.len + 1);
	uint32_t i;

	ck_assert_uint_eq(f.pos, pos);
	outbox_read(o, off + FRAME_HEADER, body, f.len);
	for (i = 0; i < f.len && body[i] == ((f.payload + i) & 0xff); i++)
		continue;
	ck_assert_uint_eq(i, f.len);
	free(body);
	return (next);
}

START_TEST(test_stream_over_many_segments)
{
	struct outbox o;
	struct err err;
	uint64_t seed = 7, pos = 1, first = 1, off;
	uint32_t i;

	ck_assert_int_eq(outbox_create(&o, NULL, LIMIT, 5, 0, &err), 0);
	for (i = 0; i < 2000; i++) {
		ck_assert_int_eq(put(&o, pos++, (uint32_t)(unit_random(&seed)
		    % 100000), &err), 0);
		while (outbox_used(&o) > LIMIT / 2 ||
		    (outbox_used(&o) > 0 && unit_random(&seed) % 8 == 0)) {
			off = check_frame(&o, outbox_head(&o), first++);
			outbox_free(&o, off);
		}
	}
	ck_assert_uint_gt(outbox_tail(&o), 50000000);
	outbox_close(&o);
}
END_TEST

START_TEST(test_bound_and_room_after_freeing)
{
	struct outbox o;
	struct err err;
	uint64_t pos = 1;

	ck_assert_int_eq(outbox_create(&o, NULL, 1 << 16, 5, 0, &err), 0);
	while (put(&o, pos, 100000, &err) == 0)
		pos++;
	ck_assert_int_eq(err.code, ERR_LIMIT);
	ck_assert_uint_ge(pos, 10);
	outbox_free(&o, outbox_tail(&o));
	ck_assert_uint_eq(outbox_used(&o), 0);
	ck_assert_int_eq(put(&o, pos, 900000, &err), 0);
	(void)check_frame(&o, outbox_head(&o), pos);
	outbox_close(&o);
}
END_TEST

/* Kill after any prefix of frames: what is above `done` is cut, exactly. */
START_TEST(test_cut_and_reopen)
{
	struct outbox o;
	struct err err;
	uint64_t off, pos, payload = 0, freed;
	bool missing;

	make_path();
	ck_assert_int_eq(outbox_create(&o, path, LIMIT, 99, 1000, &err), 0);
	outbox_sink(&o)->conn = 1234;
	for (pos = 1; pos <= 40; pos++) {
		ck_assert_int_eq(put(&o, pos * 10, 70000, &err), 0);
		if (pos == 25)
			payload = o.payload_tail;
	}
	off = outbox_head(&o);
	for (pos = 1; pos <= 10; pos++)
		off = check_frame(&o, off, pos * 10);
	outbox_free(&o, off);
	freed = off;
	outbox_close(&o);

	ck_assert_int_eq(outbox_open(&o, path, &missing, &err), 0);
	ck_assert_uint_eq(outbox_lineage(&o), 99);
	ck_assert_uint_eq(outbox_sink(&o)->conn, 1234);
	ck_assert_uint_eq(outbox_head(&o), freed);
	outbox_cut(&o, 255);
	ck_assert_uint_eq(o.payload_tail, payload);
	off = outbox_head(&o);
	for (pos = 11; pos <= 25; pos++)
		off = check_frame(&o, off, pos * 10);
	ck_assert_uint_eq(off, outbox_tail(&o));
	/* It goes on as if the cut ones had never been. */
	ck_assert_int_eq(put(&o, 261, 600000, &err), 0);
	off = check_frame(&o, off, 261);
	ck_assert_uint_eq(off, outbox_tail(&o));
	outbox_close(&o);
	ck_assert_int_eq(outbox_open(&o, path, &missing, &err), 0);
	outbox_cut(&o, 0);
	ck_assert_uint_eq(outbox_used(&o), 0);
	outbox_close(&o);
	/* Free segments of an earlier life are used again. */
	ck_assert_int_eq(outbox_open(&o, path, &missing, &err), 0);
	ck_assert_int_eq(put(&o, 300, 2000000, &err), 0);
	(void)check_frame(&o, outbox_head(&o), 300);
	outbox_close(&o);
	remove_path();
}
END_TEST

START_TEST(test_empty_outbox_keeps_its_payload_offset)
{
	struct outbox o;
	struct err err;
	bool missing;

	make_path();
	ck_assert_int_eq(outbox_create(&o, path, LIMIT, 1, 500, &err), 0);
	ck_assert_int_eq(put(&o, 8, 300, &err), 0);
	outbox_free(&o, outbox_tail(&o));
	outbox_close(&o);
	ck_assert_int_eq(outbox_open(&o, path, &missing, &err), 0);
	ck_assert_uint_eq(o.payload_tail, 800);
	outbox_close(&o);
	remove_path();
}
END_TEST

START_TEST(test_foreign_files_are_refused)
{
	struct outbox o;
	struct err err;
	bool missing;
	FILE *f;

	make_path();
	ck_assert_int_eq(outbox_open(&o, path, &missing, &err), -1);
	ck_assert(missing);
	f = fopen(path, "w");
	fprintf(f, "%5000s", "not an outbox");
	fclose(f);
	ck_assert_int_eq(outbox_open(&o, path, &missing, &err), -1);
	ck_assert(!missing);
	ck_assert_int_eq(err.code, ERR_CORRUPT);
	unlink(path);
	ck_assert_int_eq(outbox_create(&o, path, LIMIT, 1, 0, &err), 0);
	ck_assert_int_eq(put(&o, 8, 300, &err), 0);
	ck_assert_int_eq(put(&o, 9, 300, &err), 0);
	outbox_close(&o);
	ck_assert_int_eq(truncate(path, 16384), 0);
	ck_assert_int_eq(outbox_open(&o, path, &missing, &err), -1);
	ck_assert_int_eq(err.code, ERR_CORRUPT);
	remove_path();
}
END_TEST

/* --- sealed: what a checkpoint has is found after a power loss ----------- */

static void
fill(struct outbox *o, uint64_t *pos, uint32_t n, uint64_t *seed)
{
	struct err err;

	while (n-- > 0)
		ck_assert_int_eq(put(o, ++*pos, (uint32_t)(unit_random(seed) %
		    90000) + 1, &err), 0);
}

/* Receivers have the first n frames. */
static void
take(struct outbox *o, uint32_t n)
{
	uint64_t off = outbox_head(o);
	struct frame f;

	while (n-- > 0)
		off = outbox_frame(o, off, &f);
	outbox_free(o, off);
}

START_TEST(test_restored_as_the_checkpoint_has_it)
{
	struct buf snapshot = { 0 };
	struct outbox o;
	struct frame f;
	struct err err;
	uint64_t seed = 5, pos = 0, at, off, head, tail;
	bool missing;
	uint8_t junk[512];
	int fd;

	make_path();
	ck_assert_int_eq(outbox_create(&o, path, LIMIT, 6, 0, &err), 0);
	outbox_seal(&o);
	fill(&o, &pos, 60, &seed);
	take(&o, 20);
	outbox_snapshot(&o, &snapshot);
	at = pos;
	head = outbox_head(&o);
	tail = outbox_tail(&o);
	outbox_committed(&o);
	/* Much more comes and goes; no place is used again before a commit. */
	fill(&o, &pos, 60, &seed);
	take(&o, 100);
	ck_assert_uint_gt(outbox_waiting(&o), 0);
	fill(&o, &pos, 60, &seed);
	outbox_close(&o);
	/* The words in the head are anything. */
	fd = open(path, O_RDWR);
	unit_random(&seed);
	memset(junk, 0xa5, sizeof(junk));
	ck_assert_int_eq(pwrite(fd, junk, 28, 24), 28);
	ck_assert_int_eq(pwrite(fd, junk, 512, 4096), 512);
	close(fd);
	ck_assert_int_eq(outbox_restore(&o, path, 6, buf_slice(&snapshot),
	    &missing, &err), 0);
	ck_assert_uint_eq(outbox_head(&o), head);
	ck_assert_uint_eq(outbox_tail(&o), tail);
	off = outbox_head(&o);
	for (pos = 21; pos <= at; pos++)
		off = check_frame(&o, off, pos);
	ck_assert_uint_eq(off, tail);
	(void)f;
	/* And it goes on from there. */
	fill(&o, &pos, 60, &seed);
	outbox_close(&o);
	ck_assert_int_eq(outbox_open(&o, path, &missing, &err), 0);
	outbox_close(&o);
	buf_fini(&snapshot);
	remove_path();
}
END_TEST

START_TEST(test_places_are_used_again_after_a_commit)
{
	struct buf snapshot = { 0 };
	struct outbox o;
	struct err err;
	struct stat st;
	uint64_t seed = 6, pos = 0;
	uint32_t i;

	make_path();
	ck_assert_int_eq(outbox_create(&o, path, LIMIT, 6, 0, &err), 0);
	outbox_seal(&o);
	for (i = 0; i < 200; i++) {
		fill(&o, &pos, 20, &seed);
		take(&o, 20);
		buf_clear(&snapshot);
		outbox_snapshot(&o, &snapshot);
		outbox_committed(&o);
		ck_assert_uint_eq(outbox_waiting(&o), 0);
	}
	ck_assert_int_eq(fstat(o.fd, &st), 0);
	ck_assert_int_lt(st.st_size, 16 << 20);
	outbox_close(&o);
	buf_fini(&snapshot);
	remove_path();
}
END_TEST

START_TEST(test_after_a_kill_the_committed_is_kept)
{
	struct buf snapshot = { 0 }, other = { 0 };
	struct outbox o;
	struct err err;
	uint64_t seed = 8, pos = 0, tail;
	bool missing;

	make_path();
	ck_assert_int_eq(outbox_create(&o, path, LIMIT, 6, 0, &err), 0);
	outbox_seal(&o);
	fill(&o, &pos, 30, &seed);
	outbox_snapshot(&o, &snapshot);
	outbox_committed(&o);
	tail = outbox_tail(&o);
	fill(&o, &pos, 10, &seed);
	take(&o, 35);
	outbox_close(&o);
	ck_assert_int_eq(outbox_open(&o, path, &missing, &err), 0);
	ck_assert_int_eq(outbox_keep(&o, buf_slice(&snapshot), &err), 0);
	ck_assert_uint_gt(outbox_waiting(&o), 0);
	fill(&o, &pos, 60, &seed);
	outbox_close(&o);
	ck_assert_int_eq(outbox_restore(&o, path, 6, buf_slice(&snapshot),
	    &missing, &err), 0);
	ck_assert_uint_eq(outbox_tail(&o), tail);
	/* An older copy does not reach as far as the checkpoint says. */
	fill(&o, &pos, 5, &seed);
	outbox_snapshot(&o, &other);
	outbox_cut(&o, 30);
	ck_assert_int_eq(outbox_keep(&o, buf_slice(&other), &err), -1);
	ck_assert_int_eq(err.code, ERR_CORRUPT);
	outbox_close(&o);
	buf_fini(&snapshot);
	buf_fini(&other);
	remove_path();
}
END_TEST

START_TEST(test_damaged_frames_are_refused)
{
	struct buf snapshot = { 0 };
	struct outbox o;
	struct err err;
	uint64_t seed = 9, pos = 0, at;
	bool missing;
	uint8_t before, byte;
	int fd;

	make_path();
	ck_assert_int_eq(outbox_create(&o, path, LIMIT, 6, 0, &err), 0);
	outbox_seal(&o);
	fill(&o, &pos, 2, &seed);
	outbox_snapshot(&o, &snapshot);
	at = o.head_size;
	fd = open(path, O_RDWR);
	for (; at < o.head_size + outbox_tail(&o); at += 512) {
		ck_assert_int_eq(pread(fd, &before, 1, (off_t)at), 1);
		byte = before ^ 0x10;
		ck_assert_int_eq(pwrite(fd, &byte, 1, (off_t)at), 1);
		struct outbox again;

		ck_assert_int_eq(outbox_restore(&again, path, 6,
		    buf_slice(&snapshot), &missing, &err), -1);
		ck_assert_int_eq(err.code, ERR_CORRUPT);
		ck_assert_int_eq(pwrite(fd, &before, 1, (off_t)at), 1);
	}
	close(fd);
	outbox_close(&o);
	ck_assert_int_eq(outbox_restore(&o, path, 7, buf_slice(&snapshot),
	    &missing, &err), -1);
	ck_assert_int_eq(err.code, ERR_REFUSED);
	ck_assert_int_eq(outbox_restore(&o, path, 6, slice_of("x", 1),
	    &missing, &err), -1);
	ck_assert_int_eq(err.code, ERR_CORRUPT);
	buf_fini(&snapshot);
	remove_path();
}
END_TEST

UNIT_MAIN("outbox", test_stream_over_many_segments,
    test_bound_and_room_after_freeing, test_cut_and_reopen,
    test_empty_outbox_keeps_its_payload_offset,
    test_foreign_files_are_refused, test_restored_as_the_checkpoint_has_it,
    test_places_are_used_again_after_a_commit,
    test_after_a_kill_the_committed_is_kept,
    test_damaged_frames_are_refused)
