/*
 * Every file call of the journal, the outboxes, the store and the recovery
 * fails once: the first, the second, and so on until none is left.  Each
 * failure is an error that names the file and the reason, nothing is left
 * behind in memory, and the next opening works and finds everything.
 *
 * Our own calls are wrapped by the linker; SQLite's come here because an
 * executable's functions are found before libc's, and its memory is ours.
 */
#include <sys/mman.h>
#include <sys/stat.h>

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/mem.h"
#include "tests/unit/rig.h"
#include "tests/unit/unit.h"
#include "worker/storeread.h"

/* --- the countdown ----------------------------------------------------- */

enum family {
	OWN_CALLS,		/* of our objects */
	SQLITE_CALLS,		/* of libsqlite3 */
	SQLITE_MEMORY,
	FAMILIES
};

static enum family armed;
static long countdown;
static bool tripped;

static void
arm(enum family family, long n)
{
	armed = family;
	countdown = n;
	tripped = false;
}

static bool
fails(enum family family, int error)
{
	if (countdown == 0 || family != armed || --countdown > 0)
		return (false);
	tripped = true;
	errno = error;
	return (true);
}

/* For the linker: -Wl,--wrap=NAME makes these out of calls of NAME. */
#define WRAP(type, name, error, args, call, failure)			\
type	__real_##name args;						\
type	__wrap_##name args;						\
type									\
__wrap_##name args							\
{									\
	if (fails(OWN_CALLS, error))					\
		return (failure);					\
	return (__real_##name call);					\
}

WRAP(int, memfd_create, ENFILE, (const char *s, unsigned int f), (s, f), -1)
WRAP(int, posix_fallocate, ENOSPC, (int fd, off_t o, off_t n), (fd, o, n),
    ENOSPC)
WRAP(void *, mmap, ENOMEM, (void *p, size_t n, int prot, int flags, int fd,
    off_t off), (p, n, prot, flags, fd, off), MAP_FAILED)
WRAP(int, fstat, EIO, (int fd, struct stat *st), (fd, st), -1)
WRAP(ssize_t, pread, EIO, (int fd, void *p, size_t n, off_t off),
    (fd, p, n, off), -1)

int	__real_open(const char *path, int flags, ...);
int	__wrap_open(const char *path, int flags, ...);
int
__wrap_open(const char *path, int flags, ...)
{
	va_list ap;
	int mode;

	va_start(ap, flags);
	mode = (flags & O_CREAT) != 0 ? va_arg(ap, int) : 0;
	va_end(ap);
	return (fails(OWN_CALLS, EMFILE) ? -1 : __real_open(path, flags,
	    mode));
}

/* libc's function of the same name. */
#define NEXT(f)								\
	static __typeof__(f) *next_##f;					\
	if (next_##f == NULL)						\
		*(void **)&next_##f = dlsym(RTLD_NEXT, #f)

ssize_t
pread64(int fd, void *p, size_t n, off_t off)
{
	NEXT(pread64);
	return (fails(SQLITE_CALLS, EIO) ? -1 : next_pread64(fd, p, n, off));
}

ssize_t
pwrite64(int fd, const void *p, size_t n, off_t off)
{
	NEXT(pwrite64);
	return (fails(SQLITE_CALLS, ENOSPC) ? -1 : next_pwrite64(fd, p, n,
	    off));
}

int
ftruncate64(int fd, off_t size)
{
	NEXT(ftruncate64);
	return (fails(SQLITE_CALLS, EIO) ? -1 : next_ftruncate64(fd, size));
}

/* Nothing here loses power: it need not be waited for. */
int
fdatasync(int fd)
{
	(void)fd;
	return (fails(SQLITE_CALLS, EIO) ? -1 : 0);
}

int
open64(const char *path, int flags, ...)
{
	va_list ap;
	int mode;

	NEXT(open64);
	va_start(ap, flags);
	mode = (flags & O_CREAT) != 0 ? va_arg(ap, int) : 0;
	va_end(ap);
	return (fails(SQLITE_CALLS, EMFILE) ? -1 : next_open64(path, flags,
	    mode));
}

static sqlite3_mem_methods memory;

static void *
m_malloc(int n)
{
	return (fails(SQLITE_MEMORY, ENOMEM) ? NULL : memory.xMalloc(n));
}

static void *
m_realloc(void *p, int n)
{
	return (fails(SQLITE_MEMORY, ENOMEM) ? NULL : memory.xRealloc(p, n));
}

static void
take_memory(void)
{
	sqlite3_mem_methods mine;

	if (memory.xMalloc != NULL)
		return;
	sqlite3_shutdown();
	ck_assert_int_eq(sqlite3_config(SQLITE_CONFIG_GETMALLOC, &memory),
	    SQLITE_OK);
	mine = memory;
	mine.xMalloc = m_malloc;
	mine.xRealloc = m_realloc;
	ck_assert_int_eq(sqlite3_config(SQLITE_CONFIG_MALLOC, &mine),
	    SQLITE_OK);
	/* Every request is to reach it. */
	ck_assert_int_eq(sqlite3_config(SQLITE_CONFIG_LOOKASIDE, 0, 0),
	    SQLITE_OK);
	ck_assert_int_eq(sqlite3_initialize(), SQLITE_OK);
}

/* --- scenarios --------------------------------------------------------- */

static char dir[64], path[96];

static void
make_dir(void)
{
	rig_dir_make(dir, sizeof(dir));
	snprintf(path, sizeof(path), "%s/file", dir);
}

struct scenario {
	void	(*prepare)(void);	/* before the countdown, or NULL */
	int	(*run)(struct err *);	/* 0, or -1 and everything undone */
	void	(*verify)(void);	/* the next opening */
};

static void
check_err(const struct err *err, enum family family, long n)
{
	static const char *const reasons[] = { "Too many open files",
	    "No space left", "Cannot allocate memory", "Input/output error",
	    "disk I/O error", "out of memory", "unable to open database",
	    "disk is full", "readonly database",
	    "locking protocol" };
	size_t i;
	bool found = false;

	ck_assert_msg(err->code == ERR_STORAGE || err->code == ERR_SYSTEM,
	    "family %d call %ld: code %d: %s", (int)family, n,
	    (int)err->code, err->text);
	ck_assert_msg(strstr(err->text, dir) != NULL ||
	    strstr(err->text, "memory file") != NULL ||
	    strstr(err->text, "boot_id") != NULL ||
	    strstr(err->text, "address space") != NULL,
	    "family %d call %ld names no file: %s", (int)family, n,
	    err->text);
	for (i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++)
		found = found || strstr(err->text, reasons[i]) != NULL;
	ck_assert_msg(found, "family %d call %ld names no reason: %s",
	    (int)family, n, err->text);
}

/* Every call; of requests for memory, which are thousands, all in the
 * beginning and then fewer and fewer. */
static long
after(long n, enum family family)
{
#ifdef WALLAROO_SANITIZERS
	long spread = 4;		/* they are slow */
#else
	long spread = 32;
#endif

	return (n + 1 + (family == SQLITE_MEMORY ? n / spread : 0));
}

/* How many calls there are. */
static long
each(const struct scenario *s, enum family family)
{
	struct err err;
	long n;
	int r;

	take_memory();
	for (n = 1; n < 20000; n = after(n, family)) {
		make_dir();
		if (s->prepare != NULL)
			s->prepare();
		memset(&err, 0, sizeof(err));
		arm(family, n);
		r = s->run(&err);
		countdown = 0;
		if (r == -1) {
			ck_assert_msg(tripped, "failed by itself: %s",
			    err.text);
			check_err(&err, family, n);
		}
		s->verify();
		rig_dir_remove(dir);
		if (!tripped)
			return (n - 1);
	}
	ck_abort_msg("no end of calls");
}

/* --- the journal ------------------------------------------------------- */

static int
run_journal_create(struct err *err)
{
	struct journal j;

	if (journal_create(&j, path, 65536, 3, 42, 0, err) == -1)
		return (-1);
	rig_entry(&j, "hello");
	journal_close(&j);
	return (0);
}

/* Whole, or not there; never half. */
static void
verify_journal_create(void)
{
	bool missing, old_boot;
	struct journal j;
	struct err err;

	if (journal_open(&j, path, 3, &missing, &old_boot, &err) == -1) {
		ck_assert_msg(missing, "%s", err.text);
		unlink(path);
		ck_assert_int_eq(run_journal_create(&err), 0);
		ck_assert_int_eq(journal_open(&j, path, 3, &missing,
		    &old_boot, &err), 0);
	}
	ck_assert_uint_eq(journal_tail(&j), entry_size(5));
	journal_close(&j);
}

static void
prepare_journal(void)
{
	struct err err;

	ck_assert_int_eq(run_journal_create(&err), 0);
}

static int
run_journal_open(struct err *err)
{
	bool missing, old_boot;
	struct journal j;

	if (journal_open(&j, path, 3, &missing, &old_boot, err) == -1) {
		ck_assert(!missing);	/* or it would be given up */
		return (-1);
	}
	journal_close(&j);
	return (0);
}

static int
run_journal_memory(struct err *err)
{
	struct journal j;

	if (journal_create(&j, NULL, 65536, 3, 42, 0, err) == -1)
		return (-1);
	journal_close(&j);
	return (0);
}

static void
verify_nothing(void)
{
}

START_TEST(test_journal)
{
	static const struct scenario create = { NULL, run_journal_create,
	    verify_journal_create };
	static const struct scenario open = { prepare_journal,
	    run_journal_open, verify_journal_create };
	static const struct scenario unnamed = { NULL, run_journal_memory,
	    verify_nothing };

	ck_assert_int_ge(each(&create, OWN_CALLS), 6);
	ck_assert_int_ge(each(&open, OWN_CALLS), 6);
	ck_assert_int_ge(each(&unnamed, OWN_CALLS), 6);
}
END_TEST

/* --- an outbox --------------------------------------------------------- */

#define FRAMES	12
#define BODY	100000		/* several segments */

static uint8_t body[BODY];

/* As many frames as there is room for. */
static int
fill_box(struct outbox *o, int from, struct err *err)
{
	struct frame f = { .records = 1 };
	uint32_t len = BODY;

	for (f.pos = (uint64_t)from; f.pos < FRAMES; f.pos++) {
		if (outbox_reserve(o, FRAME_HEADER + BODY + 4, err) == -1)
			return (-1);
		outbox_append(o, &f, slice_of(body, BODY), &len);
	}
	return (0);
}

static int
run_outbox_create(struct err *err)
{
	struct outbox o;
	int r;

	if (outbox_create(&o, path, 8 << 20, 42, 7, err) == -1)
		return (-1);
	r = fill_box(&o, 0, err);
	outbox_close(&o);
	return (r);
}

static void
verify_outbox(void)
{
	struct outbox o;
	struct err err;
	struct frame f;
	bool missing;
	uint64_t off;
	int n = 0;

	if (outbox_open(&o, path, &missing, &err) == -1) {
		ck_assert_msg(missing, "%s", err.text);
		unlink(path);
		ck_assert_int_eq(outbox_create(&o, path, 8 << 20, 42, 7,
		    &err), 0);
	}
	for (off = outbox_head(&o); off < outbox_tail(&o); n++) {
		off = outbox_frame(&o, off, &f);
		ck_assert_uint_eq(f.pos, (uint64_t)n);
		ck_assert_uint_eq(f.len, BODY);
	}
	ck_assert_int_eq(fill_box(&o, n, &err), 0);
	outbox_free(&o, outbox_tail(&o));
	ck_assert_uint_eq(o.payload_tail, 7 + (uint64_t)FRAMES * BODY);
	outbox_close(&o);
}

static void
prepare_outbox(void)
{
	struct err err;

	ck_assert_int_eq(run_outbox_create(&err), 0);
}

static int
run_outbox_open(struct err *err)
{
	struct outbox o;
	bool missing;

	if (outbox_open(&o, path, &missing, err) == -1) {
		ck_assert(!missing);
		return (-1);
	}
	outbox_close(&o);
	return (0);
}

START_TEST(test_outbox)
{
	static const struct scenario create = { NULL, run_outbox_create,
	    verify_outbox };
	static const struct scenario open = { prepare_outbox,
	    run_outbox_open, verify_outbox };

	ck_assert_int_ge(each(&create, OWN_CALLS), 10);
	ck_assert_int_ge(each(&open, OWN_CALLS), 7);
}
END_TEST

/* --- the store --------------------------------------------------------- */

static const char *const steps[] = { "count", NULL };

static int
open_store(struct store *s, struct store_meta *m, struct err *err)
{
	return (store_open(s, path, 3, steps, 2, m, err));
}

static struct store_job *
make_job(uint64_t position, const char *value, bool clean)
{
	struct store_job *j = xcalloc(1, sizeof(*j));

	j->position = position;
	j->lineage = 5;
	j->clean = j->sync = j->remake = clean;
	buf_add(&j->automaton, value, strlen(value));
	store_job_row(j, 0, slice_of("key", 3), slice_of(value,
	    strlen(value)));
	if (clean)
		store_job_box(j, 9, slice_of("head", 4), slice_of(value,
		    strlen(value)));
	return (j);
}

static int
run_store_open(struct err *err)
{
	struct store_meta m;
	struct store s;

	if (open_store(&s, &m, err) == -1)
		return (-1);
	buf_fini(&m.automaton);
	store_close(&s);
	return (0);
}

static int
commit(struct store *s, uint64_t position, const char *value, bool clean,
    struct err *err)
{
	struct store_job *j = make_job(position, value, clean);
	int r = store_commit(s, j, err);

	store_job_free(j);
	return (r);
}

static void
prepare_store(void)
{
	struct store_meta m;
	struct store s;
	struct err err;

	ck_assert_int_eq(open_store(&s, &m, &err), 0);
	ck_assert_int_eq(commit(&s, 100, "one", false, &err), 0);
	ck_assert_int_eq(commit(&s, 200, "two", false, &err), 0);
	buf_fini(&m.automaton);
	store_close(&s);
}

/* Two commits on one connection: the second also after the first failed. */
static int
run_store_commit(struct err *err)
{
	struct store_meta m;
	struct store s;
	struct err first;
	int r;

	if (open_store(&s, &m, err) == -1)
		return (-1);
	buf_fini(&m.automaton);
	r = commit(&s, 300, "three", false, &first);
	if (commit(&s, 400, "four", true, err) == -1)
		r = -1;
	else if (r == -1)
		*err = first;
	store_close(&s);
	return (r);
}

static int
see_row(void *arg, size_t step, struct slice key, struct slice value)
{
	struct buf *seen = arg;

	ck_assert_uint_eq(step, 0);
	ck_assert_uint_eq(key.len, 3);
	buf_clear(seen);
	buf_add(seen, value.data, value.len);
	return (0);
}

static int
see_box(void *arg, uint32_t box, struct slice head, struct slice value)
{
	struct buf *seen = arg;

	ck_assert_uint_eq(box, 9);
	ck_assert_uint_eq(head.len, 4);
	buf_clear(seen);
	buf_add(seen, value.data, value.len);
	return (0);
}

static int
run_store_read(struct err *err)
{
	struct store_meta m;
	struct store s;
	struct buf seen = { 0 };
	int r;

	if (open_store(&s, &m, err) == -1)
		return (-1);
	buf_fini(&m.automaton);
	r = store_rows(&s, see_row, &seen, err);
	if (r == 0)
		r = store_boxes(&s, see_box, &seen, err);
	store_close(&s);
	buf_fini(&seen);
	return (r);
}

/* What is left is read while others commit; by key, by step, in pieces. */
static int
read_left(struct store *s, struct err *err)
{
	struct storeread *r = storeread_new(s, err);
	struct buf seen = { 0 };
	struct slice value;
	int more = 1;

	if (r == NULL)
		return (-1);
	if (storeread_key(r, 0, slice_of("key", 3), &value, err) != 1 ||
	    storeread_key(r, 0, slice_of("nokey", 5), &value, err) != 0)
		more = -1;
	while (more == 1)
		more = storeread_next(r, 1, see_row, &seen, err);
	storeread_free(r);
	if (more == 0 && (r = storeread_new(s, err)) == NULL)
		more = -1;
	if (more == 0) {
		more = storeread_step(r, 0, see_row, &seen, err);
		storeread_free(r);
	}
	buf_fini(&seen);
	return (more);
}

static int
run_store_left(struct err *err)
{
	struct store_meta m;
	struct store s;
	int r;

	if (open_store(&s, &m, err) == -1)
		return (-1);
	buf_fini(&m.automaton);
	r = read_left(&s, err);
	store_close(&s);
	return (r);
}

/* The key is in the table. */
static void
prepare_merged(void)
{
	struct store_meta m;
	struct store s;
	struct err err;

	ck_assert_int_eq(open_store(&s, &m, &err), 0);
	ck_assert_int_eq(commit(&s, 400, "four", true, &err), 0);
	buf_fini(&m.automaton);
	store_close(&s);
}

/* One of the commits that were tried, whole. */
static void
verify_store(void)
{
	struct store_meta m;
	struct store s;
	struct err err;
	struct buf row = { 0 }, box = { 0 };

	ck_assert_msg(open_store(&s, &m, &err) == 0, "%s", err.text);
	ck_assert_msg(store_rows(&s, see_row, &row, &err) == 0, "%s",
	    err.text);
	ck_assert_msg(store_boxes(&s, see_box, &box, &err) == 0, "%s",
	    err.text);
	if (m.exists) {
		ck_assert_str_eq(buf_str(&row), buf_str(&m.automaton));
		ck_assert_uint_eq(m.position, strcmp(buf_str(&row), "two") ==
		    0 ? 200 : strcmp(buf_str(&row), "three") == 0 ? 300 :
		    strcmp(buf_str(&row), "four") == 0 ? 400 : 0);
		ck_assert(m.clean == (m.position == 400));
		ck_assert_str_eq(buf_str(&box), m.clean ? "four" : "");
	}
	ck_assert_int_eq(commit(&s, 500, "five", false, &err), 0);
	buf_fini(&m.automaton);
	buf_fini(&row);
	buf_fini(&box);
	store_close(&s);
}

static void
each_store(const struct scenario *s, long least)
{
	long calls = each(s, SQLITE_CALLS), allocations = each(s,
	    SQLITE_MEMORY);

	ck_assert_int_ge(calls, least);
	ck_assert_int_ge(allocations, least);
}

START_TEST(test_store_left)
{
	static const struct scenario newer = { prepare_store, run_store_left,
	    verify_store };
	static const struct scenario merged = { prepare_merged,
	    run_store_left, verify_store };

	each_store(&newer, 8);
	each_store(&merged, 8);
}
END_TEST

START_TEST(test_store_open)
{
	static const struct scenario fresh = { NULL, run_store_open,
	    verify_store };
	static const struct scenario again = { prepare_store, run_store_open,
	    verify_store };

	each_store(&fresh, 20);
	each_store(&again, 8);
}
END_TEST

START_TEST(test_store_commit)
{
	static const struct scenario s = { prepare_store, run_store_commit,
	    verify_store };

	each_store(&s, 20);
}
END_TEST

START_TEST(test_store_read)
{
	static const struct scenario s = { prepare_store, run_store_read,
	    verify_store };

	each_store(&s, 8);
}
END_TEST

/* --- recovery of a whole worker ---------------------------------------- */

static uint64_t saved_pos, done_pos;

/* A worker that was killed between two checkpoints. */
static void
prepare_killed(void)
{
	struct worker w;
	struct buf text = { 0 };
	struct err err;

	rig_make(&w, dir);
	ck_assert_msg(recover_open(&w, &text, &err) == 0, "%s", err.text);
	rig_live(&w, "one");
	rig_save(&w, "saved", false);
	saved_pos = w.a.pos;
	rig_live(&w, "two");
	done_pos = w.a.pos;
	buf_fini(&text);
	rig_free(&w);
}

static void
prepare_stopped(void)
{
	struct worker w;
	struct buf text = { 0 };
	struct err err;

	rig_make(&w, dir);
	ck_assert_int_eq(recover_open(&w, &text, &err), 0);
	rig_live(&w, "one");
	rig_save(&w, "saved", true);
	saved_pos = done_pos = w.a.pos;
	recover_unlink(&w);
	buf_fini(&text);
	rig_free(&w);
}

/* A call that failed is no reason to refuse the start for good, nor to
 * give up what the files hold when the operator accepts losses. */
static int
recover(uint32_t flags, struct err *err)
{
	struct worker w;
	struct buf text = { 0 };
	int r;

	rig_make(&w, dir);
	w.flags |= flags;
	r = recover_open(&w, &text, err);
	ck_assert_msg(text.len == 0, "refused: %s", buf_str(&text));
	buf_fini(&text);
	rig_free(&w);
	return (r);
}

static int
run_recover(struct err *err)
{
	return (recover(0, err));
}

static int
run_recover_lossy(struct err *err)
{
	return (recover(START_ACCEPT_LOSS, err));
}

static void
verify_recover(void)
{
	struct worker w;
	struct buf text = { 0 };
	struct err err;

	rig_make(&w, dir);
	ck_assert_msg(recover_open(&w, &text, &err) == 0, "%s", err.text);
	ck_assert_uint_eq(w.a.pos, saved_pos);
	ck_assert_uint_eq(w.a.drop, done_pos);
	ck_assert_uint_eq(journal_tail(&w.journal), done_pos);
	ck_assert_uint_eq(w.a.nkeys, 1);
	ck_assert_int_eq(outbox_used(&w.peer_box[1]) > 0,
	    done_pos > saved_pos);
	buf_fini(&text);
	rig_free(&w);
}

static void
verify_fresh(void)
{
	saved_pos = done_pos = 0;
	prepare_killed();
	verify_recover();
}

START_TEST(test_recover_fresh)
{
	static const struct scenario s = { NULL, run_recover, verify_fresh };

	ck_assert_int_ge(each(&s, OWN_CALLS), 10);
	each_store(&s, 20);
}
END_TEST

START_TEST(test_recover_killed)
{
	static const struct scenario s = { prepare_killed, run_recover,
	    verify_recover };
	static const struct scenario lossy = { prepare_killed,
	    run_recover_lossy, verify_recover };

	ck_assert_int_ge(each(&s, OWN_CALLS), 10);
	ck_assert_int_ge(each(&lossy, OWN_CALLS), 10);
	each_store(&s, 10);
	each_store(&lossy, 10);
}
END_TEST

START_TEST(test_recover_stopped)
{
	static const struct scenario s = { prepare_stopped, run_recover,
	    verify_recover };

	ck_assert_int_ge(each(&s, OWN_CALLS), 10);
	each_store(&s, 20);
}
END_TEST

UNIT_MAIN("countdown", test_journal, test_outbox, test_store_open,
    test_store_commit, test_store_read, test_store_left, test_recover_fresh,
    test_recover_killed, test_recover_stopped)
