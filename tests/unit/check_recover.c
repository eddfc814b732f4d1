/*
 * What a start makes of the files that are there: after a stop, a kill, a
 * power loss, with an older copy, a foreign file, another pipeline, settings
 * that do not fit.  Whatever is refused says why, and changes nothing: the
 * start that fits works afterwards.
 */
#include <sys/stat.h>

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/mem.h"
#include "common/mp.h"
#include "tests/unit/rig.h"
#include "tests/unit/unit.h"
#include "worker/mapped.h"

#define HEAD_SIZE	4096		/* of a journal's file */

static char dir[64];
static struct worker w;
static struct buf text;
static struct err err;
static bool machine;			/* the durability of what follows */
static struct topo topo;		/* and the pipeline */
static uint64_t saved, done;		/* checkpoint, journal's end */

static void
begin(void)
{
	rig_dir_make(dir, sizeof(dir));
	machine = false;
	topo = rig_topo;
}

static void
end(void)
{
	rig_dir_remove(dir);
	buf_fini(&text);
}

static void
make(uint32_t flags)
{
	rig_make_of(&w, dir, &topo);
	if (machine)
		rig_machine(&w);
	w.flags |= flags;
	buf_clear(&text);
	memset(&err, 0, sizeof(err));
}

static int
start(uint32_t flags)
{
	make(flags);
	return (recover_open(&w, &text, &err));
}

static void
started(uint32_t flags)
{
	ck_assert_msg(start(flags) == 0, "%s %s", err.text, buf_str(&text));
}

/* The operator is told; with loss accepted it could begin. */
static void
refused(const char *why)
{
	ck_assert_int_eq(start(0), -1);
	ck_assert_msg(strstr(buf_str(&text), why) != NULL, "%s: %s", err.text,
	    buf_str(&text));
	rig_free(&w);
}

/* An error that is no matter of loss. */
static void
failed(enum err_code code, const char *why)
{
	ck_assert_int_eq(start(0), -1);
	ck_assert_msg(err.code == code && strstr(err.text, why) != NULL,
	    "%d: %s", (int)err.code, err.text);
	ck_assert_msg(text.len == 0, "%s", buf_str(&text));
	rig_free(&w);
}

static char *
file(const char *name)
{
	static char path[4][128];
	static unsigned int i;

	i = (i + 1) % 4;
	snprintf(path[i], sizeof(path[i]), "%s/%s", dir, name);
	return (path[i]);
}

#define JOURNAL	"worker-0.journal"
#define STORE	"worker-0.g0.sqlite"
#define PEER	"worker-0.x0.p1.outbox"
#define SINK	"worker-0.s0.outbox"

static void
copy(const char *from, const char *to)
{
	uint8_t bytes[65536];
	ssize_t n;
	int in = open(file(from), O_RDONLY), out = open(file(to), O_WRONLY |
	    O_CREAT | O_TRUNC, 0600);

	ck_assert(in != -1 && out != -1);
	while ((n = read(in, bytes, sizeof(bytes))) > 0)
		ck_assert_int_eq(write(out, bytes, (size_t)n), n);
	close(in);
	close(out);
}

static void
change(const char *name, off_t at, const void *bytes, size_t n)
{
	int fd = open(file(name), O_WRONLY);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pwrite(fd, bytes, n, at), (ssize_t)n);
	close(fd);
}

/* A worker that was killed between two checkpoints, with a client. */
static void
killed(void)
{
	struct in_conn *c = xcalloc(1, sizeof(*c));

	started(0);
	c->id = 1;
	buf_add(&c->rem, "unfinished", 10);
	HASH_ADD(hh, w.a.conns, id, sizeof(c->id), c);
	rig_live(&w, "one");
	rig_save(&w, "saved", false);
	saved = w.a.pos;
	rig_live(&w, "two");
	done = w.a.pos;
	rig_free(&w);
}

/* It goes on where it was. */
static void
goes_on(void)
{
	started(0);
	ck_assert_uint_eq(w.a.pos, saved);
	ck_assert_uint_eq(w.a.drop, done);
	ck_assert_uint_eq(journal_tail(&w.journal), done);
	ck_assert_uint_eq(w.a.nkeys, 1);
	ck_assert_uint_gt(outbox_used(&w.peer_box[1]), 0);
	ck_assert_uint_eq(w.sinks[0].box.payload_tail, 6);
	rig_free(&w);
}

/* What a later start finds when the loss was accepted: the checkpoint, and
 * nothing after it. */
static void
accepted(void)
{
	uint64_t lineage;

	started(START_ACCEPT_LOSS);
	ck_assert_uint_eq(w.a.pos, saved);
	ck_assert_uint_eq(journal_used(&w.journal), 0);
	ck_assert_uint_eq(outbox_used(&w.peer_box[1]), 0);
	ck_assert_uint_eq(outbox_used(&w.sinks[0].box), 0);
	ck_assert_uint_eq(w.a.nkeys, 1);
	ck_assert_ptr_null(w.a.conns);
	ck_assert(!w.lost);
	lineage = w.lineage;
	ck_assert_uint_eq(journal_lineage(&w.journal), lineage);
	rig_free(&w);
	started(0);
	ck_assert_uint_eq(w.a.pos, saved);
	ck_assert_uint_eq(w.lineage, lineage);
	rig_free(&w);
}

/* --- beginning ----------------------------------------------------------- */

START_TEST(test_no_durability)
{
	begin();
	make(0);
	w.durable = false;
	ck_assert_int_eq(recover_open(&w, &text, &err), 0);
	ck_assert_uint_eq(w.a.pos, 0);
	ck_assert_ptr_null(worker_path(&w, "journal"));
	rig_live(&w, "one");
	recover_unlink(&w);
	rig_free(&w);
	/* Nothing is written: the directory is as empty as it was. */
	ck_assert_int_eq(rmdir(dir), 0);
	ck_assert_int_eq(mkdir(dir, 0700), 0);
	end();
}
END_TEST

START_TEST(test_size_of_the_journal)
{
	begin();
	/* Too small for this application: larger by itself. */
	make(0);
	w.conf.journal_size = 65536;
	ck_assert_int_eq(recover_open(&w, &text, &err), 0);
	ck_assert_uint_ge(w.journal.size, 1 << 20);
	ck_assert_uint_ge(w.window, 1000);
	ck_assert_uint_gt(w.source_room, 0);
	rig_free(&w);
	/* The one that is there cannot become larger. */
	make(0);
	w.conf.max_message = 64 << 20;
	ck_assert_int_eq(recover_open(&w, &text, &err), -1);
	ck_assert_int_eq(err.code, ERR_CONFIG);
	ck_assert_ptr_nonnull(strstr(err.text, "is too small for 2 workers"));
	ck_assert_ptr_nonnull(strstr(err.text, "at least 12"));
	rig_free(&w);
	started(0);
	rig_free(&w);
	end();
	/* More than is possible, before there is any file. */
	begin();
	make(0);
	w.conf.max_message = (int64_t)16 << 30;
	ck_assert_int_eq(recover_open(&w, &text, &err), -1);
	ck_assert_int_eq(err.code, ERR_CONFIG);
	ck_assert_ptr_nonnull(strstr(err.text, "lower max-message"));
	ck_assert_int_eq(access(file(JOURNAL), F_OK), -1);
	rig_free(&w);
	end();
}
END_TEST

/* --- after a stop -------------------------------------------------------- */

static struct store_job *job;

static void
put_box(uint32_t number, const void *head, size_t n, const char *body)
{
	store_job_box(job, number, slice_of(head, n), slice_of(body,
	    strlen(body)));
}

/* A clean stop with what f puts into the file. */
static void
stopped_with(void (*f)(void))
{
	begin();
	started(0);
	rig_live(&w, "one");
	saved = w.a.pos;
	job = rig_job(&w, "saved", true);
	f();
	rig_commit(&w, job);
	recover_unlink(&w);
	rig_free(&w);
}

static const uint32_t three = 3;

/* As save_boxes of checkpoint.c does it. */
static void
boxes_of_a_stop(void)
{
	struct outbox_sink head = { .conn = 5, .resume = 100 };
	struct frame f = { .pos = 8, .records = 1, .len = 3 };
	char body[8] = "abc";

	put_box(1, &f, sizeof(f), "abc");
	put_box(BOX_SINKS, &head, sizeof(head), "tcp");
	f.payload = 97;
	f.lens = 4;
	memcpy(body + 3, &three, 4);
	store_job_box(job, BOX_SINKS + 1, slice_of(&f, sizeof(f)),
	    slice_of(body, 7));
}

/* A sink that is no more, and one that is another worker's now. */
static void
boxes_of_others(void)
{
	struct outbox_sink head = { .conn = 5, .resume = 100 };
	struct frame f = { .records = 1, .len = 3 };

	put_box(BOX_SINKS, &head, sizeof(head), "gone");
	put_box(BOX_SINKS + 1, &f, sizeof(f), "abc");
	put_box(BOX_SINKS + 2, &head, sizeof(head), "dead-letters");
	put_box(BOX_SINKS + 3, &f, sizeof(f), "abc");
}

START_TEST(test_outputs_of_a_stop)
{
	struct frame f;
	char bytes[3];

	stopped_with(boxes_of_a_stop);
	started(0);
	ck_assert_uint_eq(w.a.pos, saved);
	ck_assert_uint_eq(journal_used(&w.journal), 0);
	outbox_frame(&w.peer_box[1], outbox_head(&w.peer_box[1]), &f);
	ck_assert_uint_eq(f.pos, 8);
	ck_assert_uint_eq(f.len, 3);
	outbox_read(&w.peer_box[1], FRAME_HEADER, bytes, 3);
	ck_assert_mem_eq(bytes, "abc", 3);
	/* The sink goes on at its byte, the connection is history. */
	ck_assert_uint_eq(outbox_sink(&w.sinks[0].box)->conn, 0);
	ck_assert_uint_eq(outbox_sink(&w.sinks[0].box)->resume, 100);
	outbox_frame(&w.sinks[0].box, 0, &f);
	ck_assert_uint_eq(f.payload, 97);
	ck_assert_uint_eq(w.sinks[0].box.payload_tail, 100);
	rig_free(&w);
	/* Once: now they are in the mapped files. */
	started(0);
	ck_assert_uint_gt(outbox_used(&w.sinks[0].box), 0);
	rig_free(&w);
	end();
	stopped_with(boxes_of_others);
	started(0);
	ck_assert_uint_eq(outbox_used(&w.sinks[0].box), 0);
	rig_free(&w);
	end();
}
END_TEST

static void
short_sink(void)
{
	put_box(BOX_SINKS, "short", 5, "tcp");
}

static void
short_frame(void)
{
	put_box(1, "short", 5, "abc");
}

static void
frame_of_another_length(void)
{
	struct frame f = { .records = 1, .len = 4 };

	put_box(1, &f, sizeof(f), "abc");
}

static void
frame_of_other_records(void)
{
	struct frame f = { .records = 2, .len = 3, .lens = 4 };
	struct outbox_sink head = { .resume = 0 };

	put_box(BOX_SINKS, &head, sizeof(head), "tcp");
	store_job_box(job, BOX_SINKS + 1, slice_of(&f, sizeof(f)),
	    slice_of("abc\3\0\0", 7));
}

static void
frame_to_itself(void)
{
	struct frame f = { .records = 1, .len = 3 };

	put_box(0, &f, sizeof(f), "abc");
}

START_TEST(test_outputs_that_cannot_be_read)
{
	static void (*const bad[])(void) = { short_sink, short_frame,
	    frame_of_another_length, frame_of_other_records };
	static const enum err_code code = ERR_CORRUPT;
	size_t i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		stopped_with(bad[i]);
		failed(code, "cannot be read");
		failed(code, "cannot be read");	/* not given up either */
		end();
	}
	stopped_with(frame_to_itself);
	failed(ERR_REFUSED, "pipeline of another shape");
	end();
}
END_TEST

/* A new version may have another pipeline, unless messages are under way
 * between workers. */
START_TEST(test_another_pipeline_after_a_stop)
{
	static const struct topo_stage other[] = {
		{ .name = "count", .kind = STAGE_STATE, .next = 1,
		    .exchange = -1 },
		{ .name = "out", .kind = STAGE_SINKS, .next = -1,
		    .exchange = -1 },
	};

	stopped_with(boxes_of_a_stop);
	topo.stages = (struct topo_stage *)(uintptr_t)other;
	topo.nstages = 2;
	failed(ERR_REFUSED, "start the old version and stop it again");
	topo = rig_topo;
	started(0);
	rig_free(&w);
	end();
	stopped_with(boxes_of_others);
	topo.stages = (struct topo_stage *)(uintptr_t)other;
	topo.nstages = 2;
	started(0);
	ck_assert_uint_eq(w.a.nkeys, 1);
	rig_free(&w);
	end();
}
END_TEST

/* --- after a kill -------------------------------------------------------- */

START_TEST(test_goes_on_after_a_kill)
{
	begin();
	killed();
	goes_on();
	goes_on();
	end();
}
END_TEST

START_TEST(test_missing_files)
{
	static const char *const names[] = { JOURNAL, PEER, SINK };
	size_t i;

	for (i = 0; i < 3; i++) {
		begin();
		killed();
		ck_assert_int_eq(rename(file(names[i]), file("kept")), 0);
		refused(names[i]);
		ck_assert_int_eq(rename(file("kept"), file(names[i])), 0);
		goes_on();
		unlink(file(names[i]));
		accepted();
		end();
	}
}
END_TEST

START_TEST(test_what_a_loss_would_be)
{
	char expect[200];

	begin();
	killed();
	ck_assert_int_eq(rename(file(JOURNAL), file("kept")), 0);
	ck_assert_int_eq(start(0), -1);
	snprintf(expect, sizeof(expect), "checkpoint at position %" PRIu64
	    ": input accepted after it is lost; outputs made after it may be "
	    "repeated\nchannel from worker 1 exchange 0: the checkpoint has "
	    "it up to position 0;", saved);
	ck_assert_ptr_nonnull(strstr(buf_str(&text), expect));
	rig_free(&w);
	end();
}
END_TEST

START_TEST(test_damaged_files)
{
	static const char *const names[] = { JOURNAL, PEER, SINK };
	size_t i;

	for (i = 0; i < 3; i++) {
		begin();
		killed();
		copy(names[i], "kept");
		change(names[i], 0, "garbage!", 8);
		refused(names[i]);
		copy("kept", names[i]);
		/* Cut short, to nothing too. */
		ck_assert_int_eq(truncate(file(names[i]), 5000), 0);
		refused(names[i]);
		ck_assert_int_eq(truncate(file(names[i]), 0), 0);
		refused(names[i]);
		copy("kept", names[i]);
		goes_on();
		end();
	}
}
END_TEST

/* Another worker's, or of another life of this one. */
START_TEST(test_foreign_files)
{
	struct journal j;
	struct outbox o;

	begin();
	killed();
	copy(JOURNAL, "kept");
	unlink(file(JOURNAL));
	ck_assert_int_eq(journal_create(&j, file(JOURNAL), 2 << 20, 1, 42, 0,
	    &err), 0);
	journal_close(&j);
	refused("belongs to worker 1, not 0");
	unlink(file(JOURNAL));
	ck_assert_int_eq(journal_create(&j, file(JOURNAL), 2 << 20, 0, 42, 0,
	    &err), 0);
	journal_set_commits(&j, 2);
	journal_close(&j);
	refused("the journal is of another life of this worker");
	copy("kept", JOURNAL);
	copy(SINK, "kept");
	unlink(file(SINK));
	ck_assert_int_eq(outbox_create(&o, file(SINK), 1 << 20, 42, 0, &err),
	    0);
	outbox_set_commits(&o, 2);
	outbox_close(&o);
	refused("is of another life of this worker");
	copy("kept", SINK);
	goes_on();
	end();
}
END_TEST

/* Put back to what it was some commits ago, each file in its turn. */
START_TEST(test_older_copies)
{
	static const char *const names[] = { JOURNAL, PEER, SINK, STORE };
	char expect[160];
	size_t i;

	for (i = 0; i < 4; i++) {
		begin();
		killed();
		copy(names[i], "old");
		started(0);
		w.a.pos = w.a.entry = saved = done;
		rig_save(&w, "later", false);
		rig_save(&w, "later still", false);
		rig_free(&w);
		copy(names[i], "new");
		copy("old", names[i]);
		snprintf(expect, sizeof(expect), "%s is an older copy: it is "
		    "of commit 2, %s of commit 4", names[i], "");
		*strstr(expect, ", ") = '\0';
		refused(expect);
		if (strcmp(names[i], STORE) != 0) {
			accepted();
			end();
			continue;
		}
		/* Here the checkpoint itself is the old one. */
		copy("new", STORE);
		goes_on();
		end();
	}
}
END_TEST

START_TEST(test_positions_disagree)
{
	struct journal j;
	uint64_t lineage;

	begin();
	killed();
	ck_assert_int_eq(start(0), 0);
	lineage = w.lineage;
	rig_free(&w);
	copy(JOURNAL, "kept");
	unlink(file(JOURNAL));
	ck_assert_int_eq(journal_create(&j, file(JOURNAL), 2 << 20, 0,
	    lineage, saved + 8, &err), 0);
	journal_set_commits(&j, 2);
	journal_close(&j);
	refused("positions disagree: journal head");
	copy("kept", JOURNAL);
	goes_on();
	end();
}
END_TEST

/* Starts are numbered; a file that has seen other starts is another. */
START_TEST(test_older_copies_by_start)
{
	begin();
	killed();
	make(0);
	w.opened = 5;
	w.epoch = 6;
	ck_assert_int_eq(recover_open(&w, &text, &err), -1);
	ck_assert_ptr_nonnull(strstr(buf_str(&text), "it was last opened by "
	    "start 1, catalog.sqlite says start 5"));
	rig_free(&w);
	make(0);
	w.flags = 0;			/* the first life of start 1 */
	ck_assert_int_eq(recover_open(&w, &text, &err), -1);
	ck_assert_ptr_nonnull(strstr(buf_str(&text), "catalog.sqlite is an "
	    "older copy: it says that this is start 1"));
	rig_free(&w);
	goes_on();
	/* Accepted, it begins at the checkpoint. */
	make(START_ACCEPT_LOSS);
	w.opened = 5;
	w.epoch = 6;
	ck_assert_int_eq(recover_open(&w, &text, &err), 0);
	ck_assert_uint_eq(w.a.pos, saved);
	ck_assert_uint_eq(w.a.nkeys, 1);
	rig_free(&w);
	end();
	/* A catalog that knows of starts, and no file: it was lost. */
	begin();
	make(0);
	w.opened = 5;
	w.epoch = 6;
	ck_assert_int_eq(recover_open(&w, &text, &err), -1);
	ck_assert_ptr_nonnull(strstr(buf_str(&text), "opened by start 0"));
	rig_free(&w);
	make(START_ACCEPT_LOSS);
	w.opened = 5;
	w.epoch = 6;
	ck_assert_int_eq(recover_open(&w, &text, &err), 0);
	ck_assert_uint_eq(w.a.pos, 0);
	rig_free(&w);
	end();
}
END_TEST

START_TEST(test_after_a_reboot)
{
	begin();
	killed();
	copy(JOURNAL, "kept");
	ck_assert_int_eq(journal_disown(file(JOURNAL), &err), 0);
	refused("the machine was restarted since; durability = process does "
	    "not survive that");
	copy("kept", JOURNAL);
	goes_on();
	ck_assert_int_eq(journal_disown(file(JOURNAL), &err), 0);
	accepted();
	end();
}
END_TEST

START_TEST(test_another_durability)
{
	begin();
	killed();
	machine = true;
	refused("the journal was written with durability = process");
	machine = false;
	goes_on();
	end();
	begin();
	machine = true;
	killed();
	machine = false;
	refused("the journal was written with durability = machine");
	end();
}
END_TEST

/* The journal fits, an outbox beside it does not. */
START_TEST(test_an_outbox_of_another_durability)
{
	struct outbox o;

	begin();
	killed();
	started(0);
	ck_assert_int_eq(outbox_create(&o, file("sealed"), 1 << 20, w.lineage,
	    0, &err), 0);
	rig_free(&w);
	outbox_seal(&o);
	outbox_set_commits(&o, 2);
	outbox_close(&o);
	copy(PEER, "kept");
	copy("sealed", PEER);
	refused("was written with another durability");
	copy("kept", PEER);
	goes_on();
	end();
}
END_TEST

START_TEST(test_damaged_store)
{
	static const char garbage[100] = "garbage";

	begin();
	killed();
	copy(STORE, "kept");
	change(STORE, 0, garbage, sizeof(garbage));
	failed(ERR_CORRUPT, STORE);
	copy("kept", STORE);
	goes_on();
	end();
	/* A key that was saved is not there. */
	begin();
	started(0);
	rig_live(&w, "one");
	w.saved_keys[0] = 2;
	rig_save(&w, "saved", false);
	rig_free(&w);
	failed(ERR_CORRUPT, "keys are missing");
	end();
	/* A checkpoint that is none. */
	begin();
	started(0);
	rig_live(&w, "one");
	job = rig_job(&w, "saved", false);
	buf_clear(&job->automaton);
	buf_add(&job->automaton, "garbage", 7);
	rig_commit(&w, job);
	rig_free(&w);
	failed(ERR_CORRUPT, "the checkpoint is of another version");
	end();
	/* Windows without their head. */
	begin();
	started(0);
	rig_live(&w, "one");
	job = rig_job(&w, "saved", true);
	store_job_row(job, 1, slice_of("k", 1), slice_of("short", 5));
	rig_commit(&w, job);
	recover_unlink(&w);
	rig_free(&w);
	failed(ERR_CORRUPT, "the saved windows of step \"late\" cannot be "
	    "read");
	end();
}
END_TEST

/* --- another pipeline ---------------------------------------------------- */

START_TEST(test_another_pipeline_after_a_kill)
{
	static struct topo_stage other[3];

	memcpy(other, rig_topo.stages, sizeof(other));
	other[1].name = (char *)(uintptr_t)"later";
	begin();
	killed();
	topo.stages = other;
	ck_assert_int_eq(start(0), -1);
	ck_assert_int_eq(err.code, ERR_CONFIG);
	ck_assert_ptr_nonnull(strstr(buf_str(&text), "start the old version, "
	    "stop it cleanly, then start the new one"));
	rig_free(&w);
	/* No loss that could be accepted. */
	ck_assert_int_eq(start(START_ACCEPT_LOSS), -1);
	rig_free(&w);
	/* All of it is processed and saved, but not delivered. */
	topo = rig_topo;
	started(0);
	w.a.pos = w.a.entry = done;
	rig_save(&w, "all", false);
	saved = done;
	rig_free(&w);
	topo.stages = other;
	ck_assert_int_eq(start(0), -1);
	rig_free(&w);
	/* Delivered, too: nothing is inside. */
	topo = rig_topo;
	started(0);
	outbox_free(&w.peer_box[1], outbox_tail(&w.peer_box[1]));
	outbox_free(&w.sinks[0].box, outbox_tail(&w.sinks[0].box));
	rig_free(&w);
	topo.stages = other;
	started(0);
	ck_assert_uint_eq(w.a.pos, done);
	ck_assert_uint_eq(journal_used(&w.journal), 0);
	ck_assert_uint_eq(w.a.nkeys, 1);
	rig_free(&w);
	/* And is the pipeline now. */
	topo = rig_topo;
	started(0);
	rig_free(&w);
	end();
}
END_TEST

/* --- what the journal says ----------------------------------------------- */

static void
put(enum entry_type type, uint64_t channel, uint16_t flags, const void *data,
    size_t n)
{
	memcpy(journal_stage(&w.journal, type, channel, 0, (uint32_t)n,
	    flags), data, n);
	journal_publish(&w.journal, (uint32_t)n);
}

START_TEST(test_entries_of_all_kinds)
{
	static const uint32_t source;
	static const uint64_t seq = 9;
	struct frame_head h = { 77, 1000, 3, 1 };
	struct buf b = { 0 };
	struct conn *c;
	uint64_t id;

	begin();
	started(0);
	put(ENTRY_OPEN, 1, 0, &source, sizeof(source));
	rig_entry(&w.journal, "hello");
	put(ENTRY_OPEN, 2, 0, &source, sizeof(source));
	put(ENTRY_EOF, 2, ENTRY_RESET, "x", 1);
	put(ENTRY_OPEN, 3, 0, &source, sizeof(source));
	put(ENTRY_FORGET, 3, 0, "x", 1);
	put(ENTRY_FORGET, 4, 0, "x", 1);	/* nobody knows it */
	put(ENTRY_FRAME, 1 << 16, 0, &h, sizeof(h));
	automaton_aside_pack(&b, 500, 2, 1, "signal 11");
	put(ENTRY_ASIDE, 0, 0, b.data, b.len);
	put(ENTRY_LETTER, 0, 0, &seq, sizeof(seq));
	put(ENTRY_LETTER, 0, 0, "?", 1);
	put(ENTRY_TICK, 0, 0, "x", 1);
	put(ENTRY_EOF, 0, ENTRY_SOURCE, "x", 1);
	rig_free(&w);
	started(0);
	ck_assert_uint_eq(HASH_COUNT(w.conns), 2);
	id = 1;
	HASH_FIND(hh, w.conns, &id, sizeof(id), c);
	ck_assert(c != NULL && c->journaled == 5 && !c->eof);
	id = 2;
	HASH_FIND(hh, w.conns, &id, sizeof(id), c);
	ck_assert(c != NULL && c->eof && c->fd == -1);
	ck_assert_uint_eq(w.journaled[1].lineage, 77);
	ck_assert_uint_eq(w.journaled[1].pos, 1000);
	ck_assert_uint_eq(w.journaled[1].index, 3);
	ck_assert_uint_gt(w.pending[1], sizeof(h));
	ck_assert_uint_eq(w.a.naside, 1);
	ck_assert_uint_eq(w.a.aside[0].stamp, 500);
	ck_assert_str_eq(w.a.aside[0].death, "signal 11");
	ck_assert_uint_eq(w.putback, 9);
	ck_assert(w.sources[0].eof);
	rig_free(&w);
	buf_fini(&b);
	end();
}
END_TEST

static void
open_it(void)
{
	(void)start(0);
}

START_TEST(test_an_entry_that_cannot_be_read)
{
	char said[512];

	begin();
	started(0);
	put(ENTRY_ASIDE, 0, 0, "garbage", 7);
	rig_free(&w);
	ck_assert_int_eq(rig_child(open_it, NULL, said, sizeof(said)), 100);
	ck_assert_ptr_nonnull(strstr(said, "journal entry at 0 cannot be "
	    "read"));
	end();
}
END_TEST

static char *output;

/* A file sink of this worker. */
static void
open_ends(void)
{
	static struct topo_sink sinks[2];

	memcpy(sinks, rig_topo.sinks, sizeof(sinks));
	sinks[1] = (struct topo_sink){ .name = sinks[0].name, .kind =
	    SINK_FILE, .path = output, .exchange = 0 };
	topo.sinks = sinks;
	make(0);
	w.sinks[1].mine = true;
	if (recover_open(&w, &text, &err) == 0)
		recover_ends(&w);
}

START_TEST(test_a_sink_that_cannot_be_opened)
{
	char said[512];

	begin();
	output = file("output");
	ck_assert_int_eq(rig_child(open_ends, NULL, NULL, 0), 99);
	ck_assert_int_eq(access(output, F_OK), 0);
	output = file("none/output");
	ck_assert_int_eq(rig_child(open_ends, NULL, said, sizeof(said)), 111);
	ck_assert_ptr_nonnull(strstr(said, "none/output: No such file"));
	end();
}
END_TEST

/* --- after a power loss -------------------------------------------------- */

static void
power_loss(void)
{
	ck_assert_int_eq(journal_disown(file(JOURNAL), &err), 0);
}

/* A frame of worker 1, made at `pos` of its journal. */
static uint64_t
put_message(uint64_t pos)
{
	struct frame_head h = { 77, pos, 0, 1 };
	uint64_t at = journal_tail(&w.journal);

	put(ENTRY_FRAME, 1 << 16, 0, &h, sizeof(h));
	return (at);
}

START_TEST(test_power_loss)
{
	struct cut cuts[2] = { { 0, 0 }, { 77, 500 } };
	uint64_t frame;

	begin();
	machine = true;
	killed();
	started(0);
	ck_assert(!w.lost);
	frame = put_message(1000);
	done = journal_tail(&w.journal);
	cuts[0].lineage = w.lineage;
	rig_free(&w);
	power_loss();
	started(0);
	/* All of it proves itself; outputs are those of the checkpoint. */
	ck_assert(w.lost);
	ck_assert_uint_eq(w.a.pos, saved);
	ck_assert_uint_eq(w.a.drop, saved);
	ck_assert_uint_eq(journal_tail(&w.journal), done);
	ck_assert_uint_eq(w.sinks[0].box.payload_tail, 3);
	/* The sender's journal ends before it made the message. */
	cuts[0].pos = done;
	ck_assert_uint_eq(recover_cutoff(&w, cuts, &text), frame);
	cuts[1].pos = 1000;
	ck_assert_uint_eq(recover_cutoff(&w, cuts, &text), done);
	/* It said itself that less is there. */
	cuts[0].pos = frame;
	ck_assert_uint_eq(recover_cutoff(&w, cuts, &text), frame);
	ck_assert_uint_eq(text.len, 0);
	ck_assert_int_eq(recover_cut(&w, cuts, &err), 0);
	ck_assert(!w.lost);
	ck_assert_uint_eq(journal_tail(&w.journal), frame);
	ck_assert_uint_eq(w.replay_to, frame);
	rig_free(&w);
	/* From now on it is of this boot. */
	started(0);
	ck_assert(!w.lost);
	ck_assert_uint_eq(journal_tail(&w.journal), frame);
	rig_free(&w);
	end();
}
END_TEST

/* The checkpoint has what its sender lost: that must be told. */
START_TEST(test_a_checkpoint_above_the_cut)
{
	struct cut cuts[2] = { { 0, UINT64_MAX }, { 77, 500 } };
	uint64_t frame;

	begin();
	machine = true;
	started(0);
	rig_live(&w, "one");
	frame = put_message(1000);
	w.a.entry = frame;
	w.a.pos = journal_tail(&w.journal);
	journal_release(&w.journal, w.a.pos);
	rig_save(&w, "saved", false);
	saved = w.a.pos;
	cuts[0].lineage = w.lineage;
	rig_free(&w);
	power_loss();
	started(0);
	ck_assert_uint_eq(recover_cutoff(&w, cuts, &text), frame);
	ck_assert_ptr_nonnull(strstr(buf_str(&text), "what follows is a "
	    "message that worker 1 made at position 1000, and its journal "
	    "ends at 500\n"));
	/* The loss is accepted: at the checkpoint, in another life. */
	cuts[0].lineage++;
	ck_assert_int_eq(recover_cut(&w, cuts, &err), -1);
	ck_assert_ptr_nonnull(strstr(err.text, "another life of this worker"));
	w.flags |= START_ACCEPT_LOSS;
	ck_assert_int_eq(recover_cut(&w, cuts, &err), 0);
	ck_assert(!w.lost && w.lineage != cuts[0].lineage);
	ck_assert_uint_eq(w.a.pos, saved);
	ck_assert_uint_eq(journal_used(&w.journal), 0);
	ck_assert_uint_eq(w.a.marks[1].lineage, 0);
	rig_free(&w);
	end();
}
END_TEST

/* A worker of this boot among others that lost power. */
START_TEST(test_cuts_of_others)
{
	struct cut cuts[2] = { { 0, 0 }, { 77, 500 } };

	begin();
	machine = true;
	killed();
	started(0);
	cuts[0].lineage = w.lineage;
	cuts[0].pos = done;
	ck_assert_int_eq(recover_cut(&w, cuts, &err), 0);
	ck_assert_uint_eq(journal_tail(&w.journal), done);
	/* Less is left than it has already believed: the next life does. */
	cuts[0].pos = saved;
	ck_assert_int_eq(recover_cut(&w, cuts, &err), -1);
	ck_assert_int_eq(err.code, ERR_STORAGE);
	ck_assert_ptr_nonnull(strstr(err.text, "in the next life"));
	rig_free(&w);
	started(0);
	ck_assert(w.lost);
	ck_assert_int_eq(recover_cut(&w, cuts, &err), 0);
	ck_assert_uint_eq(journal_tail(&w.journal), saved);
	rig_free(&w);
	end();
}
END_TEST

static void
spoil_journal(uint64_t pos)
{
	change(JOURNAL, (off_t)(HEAD_SIZE + pos + ENTRY_HEADER), "!", 1);
}

START_TEST(test_less_than_the_checkpoint_is_left)
{
	begin();
	machine = true;
	started(0);
	rig_live(&w, "one");
	rig_live(&w, "two");
	w.a.entry = 0;				/* it is within both */
	rig_save(&w, "saved", false);
	saved = w.a.pos;
	rig_free(&w);
	copy(JOURNAL, "kept");
	power_loss();
	spoil_journal(0);
	refused("the disk does not keep what it says it has synced, or a "
	    "file was changed");
	accepted();
	end();
}
END_TEST

START_TEST(test_outboxes_after_a_power_loss)
{
	static const char *const names[] = { PEER, SINK };
	size_t i;

	for (i = 0; i < 2; i++) {
		begin();
		machine = true;
		killed();
		power_loss();
		copy(names[i], "kept");
		unlink(file(names[i]));
		refused(names[i]);
		copy("kept", names[i]);
		change(names[i], 0, "garbage!", 8);
		refused(names[i]);
		copy("kept", names[i]);
		started(0);
		ck_assert(w.lost);
		rig_free(&w);
		end();
	}
}
END_TEST

/* What failed to reach the disk is gone on with as a copy; what is damaged
 * there is taken for a power loss. */
START_TEST(test_retired_files)
{
	static const uint64_t retired = 1;

	begin();
	machine = true;
	killed();
	change(JOURNAL, MAPPED_RETIRED, &retired, 8);
	change(PEER, MAPPED_RETIRED, &retired, 8);
	goes_on();
	change(JOURNAL, MAPPED_RETIRED, &retired, 8);
	spoil_journal(saved);
	started(0);
	ck_assert(w.lost);
	ck_assert_uint_eq(journal_tail(&w.journal), saved);
	rig_free(&w);
	end();
}
END_TEST

/* Outputs that leave after a checkpoint: none above it has left. */
START_TEST(test_after_checkpoint)
{
	begin();
	killed();
	make(0);
	w.after_checkpoint = true;
	ck_assert_int_eq(recover_open(&w, &text, &err), 0);
	ck_assert_uint_eq(w.a.drop, saved);
	ck_assert_uint_eq(journal_done(&w.journal), saved);
	ck_assert_uint_eq(w.sinks[0].box.payload_tail, 3);
	rig_free(&w);
	end();
}
END_TEST

/* --- a copy, to be run again --------------------------------------------- */

static void
make_copy(void)
{
	uint64_t head;

	unlink(file("journal"));
	copy(STORE, "checkpoint.sqlite");
	ck_assert_int_eq(journal_copy(file(JOURNAL), file("journal"), 0,
	    &head, &err), 0);
}

static int
replay(bool force)
{
	make(0);
	return (recover_replay(&w, dir, force, &err));
}

static void
replay_refused(bool force, const char *why)
{
	ck_assert_int_eq(replay(force), -1);
	ck_assert_msg(strstr(err.text, why) != NULL, "%s", err.text);
	rig_free(&w);
}

START_TEST(test_replay_of_a_copy)
{
	static struct topo_stage other[3];

	memcpy(other, rig_topo.stages, sizeof(other));
	other[1].name = (char *)(uintptr_t)"later";
	begin();
	killed();
	make_copy();
	ck_assert_msg(replay(false) == 0, "%s", err.text);
	ck_assert_uint_eq(w.a.pos, saved);
	ck_assert_uint_eq(w.a.nkeys, 1);
	ck_assert_uint_eq(w.a.drop, UINT64_MAX);
	ck_assert_uint_eq(journal_tail(&w.journal), done);
	rig_free(&w);
	topo.stages = other;
	replay_refused(false, "another one than that of the checkpoint");
	ck_assert_int_eq(replay(true), 0);
	rig_free(&w);
	topo = rig_topo;
	/* The original is as it was. */
	goes_on();
	end();
}
END_TEST

START_TEST(test_copies_that_do_not_fit)
{
	struct journal j;
	uint64_t lineage;

	begin();
	killed();
	make_copy();
	unlink(file("journal"));
	replay_refused(false, "journal");
	ck_assert_int_eq(start(0), 0);
	lineage = w.lineage;
	rig_free(&w);
	ck_assert_int_eq(journal_create(&j, file("journal"), 2 << 20, 0, 42,
	    0, &err), 0);
	journal_close(&j);
	replay_refused(false, "another life of this worker");
	unlink(file("journal"));
	ck_assert_int_eq(journal_create(&j, file("journal"), 2 << 20, 0,
	    lineage, done + 800, &err), 0);
	journal_close(&j);
	replay_refused(true, "do not belong together");
	/* A file without a checkpoint, and one that is none. */
	unlink(file("checkpoint.sqlite"));
	replay_refused(false, "the copy has no checkpoint");
	unlink(file("checkpoint.sqlite"));
	copy(JOURNAL, "checkpoint.sqlite");
	replay_refused(false, "checkpoint.sqlite");
	end();
}
END_TEST

/* From a machine that was restarted since: sealed entries prove themselves. */
START_TEST(test_replay_of_another_boot)
{
	begin();
	machine = true;
	killed();
	make_copy();
	ck_assert_int_eq(journal_disown(file("journal"), &err), 0);
	ck_assert_int_eq(replay(false), 0);
	ck_assert_uint_eq(journal_tail(&w.journal), done);
	rig_free(&w);
	end();
}
END_TEST

UNIT_MAIN("recover", test_no_durability, test_size_of_the_journal,
    test_outputs_of_a_stop, test_outputs_that_cannot_be_read,
    test_another_pipeline_after_a_stop, test_goes_on_after_a_kill,
    test_missing_files, test_what_a_loss_would_be, test_damaged_files,
    test_foreign_files, test_older_copies, test_positions_disagree,
    test_older_copies_by_start, test_after_a_reboot, test_another_durability,
    test_an_outbox_of_another_durability, test_damaged_store,
    test_another_pipeline_after_a_kill, test_entries_of_all_kinds,
    test_an_entry_that_cannot_be_read, test_a_sink_that_cannot_be_opened,
    test_power_loss, test_a_checkpoint_above_the_cut, test_cuts_of_others,
    test_less_than_the_checkpoint_is_left, test_outboxes_after_a_power_loss,
    test_retired_files, test_after_checkpoint, test_replay_of_a_copy,
    test_copies_that_do_not_fit, test_replay_of_another_boot)
