/* See journal.h. */
#include <sys/mman.h>
#include <sys/stat.h>

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "common/buf.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/part.h"
#include "worker/journal.h"
#include "worker/mapped.h"
#include "worker/planted.h"
#include "worker/sizes.h"

#define JOURNAL_MAGIC	0x6c6e726a6f6c6177ULL	/* "walojrnl" */
#define JOURNAL_VERSION	2
#define HEAD_SIZE	4096
#define NOTE_AT		2048	/* in the head */

struct journal_head {
	uint64_t		magic;
	uint32_t		version;
	uint32_t		worker;
	uint64_t		lineage;
	uint64_t		size;
	uint8_t			boot[16];
	_Atomic uint64_t	head;
	_Atomic uint64_t	done;
	_Atomic uint64_t	tail;
	uint64_t		sealed;
	_Atomic uint64_t	commits;
};

_Static_assert(sizeof(struct journal_head) <= NOTE_AT &&
    NOTE_AT + sizeof(struct journal_note) <= MAPPED_RETIRED,
    "room in the head");

#define LOAD(w)		atomic_load_explicit(&(w), memory_order_acquire)
#define STORE(w, v)	atomic_store_explicit(&(w), (v), memory_order_release)

static uint64_t
entry_check(const struct entry *e)
{
	return (part_hash(slice_of(e, offsetof(struct entry, check))));
}

/* Never 0, which is what an unsealed entry has. */
static uint64_t
entry_seal(const struct journal *j, const struct entry *e)
{
	uint64_t seed[3] = { j->h->lineage, e->check, e->len };

	return (part_seal(slice_of(e->data, e->len),
	    part_hash(slice_of(seed, sizeof(seed)))) | 1);
}

static struct entry *
slot(const struct journal *j, uint64_t pos)
{
	/* Positions and entry sizes are multiples of 8, so aligned. */
	return ((struct entry *)(void *)(j->ring + pos % j->size));
}

static const char *
name_of(const char *path)
{
	return (path == NULL ? "memory file" : path);
}

static int
map_head(struct journal *j, const char *path, struct err *err)
{
	j->h = mapped_at(NULL, j->fd, name_of(path), 0, HEAD_SIZE, err);
	return (j->h == NULL ? -1 : 0);
}

/* Twice in a row: what runs over the end goes on at the beginning. */
static int
map_ring(struct journal *j, const char *path, struct err *err)
{
	uint8_t *area;

	area = mmap(NULL, 2 * j->size, PROT_NONE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (area == MAP_FAILED)
		return (err_sys(err, ERR_SYSTEM, "cannot reserve %llu bytes "
		    "of address space", (unsigned long long)(2 * j->size)));
	j->ring = area;
	if (mapped_at(area, j->fd, name_of(path), HEAD_SIZE, j->size, err) ==
	    NULL || mapped_at(area + j->size, j->fd, name_of(path), HEAD_SIZE,
	    j->size, err) == NULL)
		return (-1);
	return (0);
}

int
journal_create(struct journal *j, const char *path, uint64_t size,
    uint32_t worker, uint64_t lineage, uint64_t start, struct err *err)
{
	memset(j, 0, sizeof(*j));
	j->fd = -1;
	j->size = (size + RING_UNIT - 1) & ~(uint64_t)(RING_UNIT - 1);
	start = (start + 7) & ~(uint64_t)7;
	if (mapped_create(path, HEAD_SIZE + j->size, &j->fd, err) == -1)
		return (-1);
	if (map_head(j, path, err) == -1 || map_ring(j, path, err) == -1 ||
	    clock_boot_id(j->h->boot, err) == -1) {
		journal_close(j);
		return (-1);
	}
	j->h->version = JOURNAL_VERSION;
	j->h->worker = worker;
	j->h->lineage = lineage;
	j->h->size = j->size;
	STORE(j->h->head, start);
	STORE(j->h->done, start);
	STORE(j->h->tail, start);
	/* Last: a file without the magic is one whose creation was cut. */
	atomic_thread_fence(memory_order_release);
	*(volatile uint64_t *)&j->h->magic = JOURNAL_MAGIC;
	return (0);
}

static int
check_head(const struct journal *j, const char *path, uint32_t worker,
    uint64_t file_size, struct err *err)
{
	const struct journal_head *h = j->h;

	if (h->magic != JOURNAL_MAGIC || h->version != JOURNAL_VERSION)
		return (err_set(err, ERR_CORRUPT,
		    "%s is not a journal of this version", path));
	if (h->worker != worker)
		return (err_set(err, ERR_CORRUPT,
		    "%s belongs to worker %u, not %u", path, h->worker,
		    worker));
	if (h->size == 0 || h->size % RING_UNIT != 0 ||
	    file_size != HEAD_SIZE + h->size)
		return (err_set(err, ERR_CORRUPT,
		    "%s has %llu bytes, its header says %llu", path,
		    (unsigned long long)file_size,
		    (unsigned long long)(HEAD_SIZE + h->size)));
	return (0);
}

static int
check_positions(const struct journal *j, const char *path, struct err *err)
{
	const struct journal_head *h = j->h;
	uint64_t head = LOAD(h->head), done = LOAD(h->done),
	    tail = LOAD(h->tail);

	/* None is ever near the end of its 64 bits: no sum overflows. */
	if (head > done || done > tail || tail - head > h->size ||
	    head % 8 != 0 || tail % 8 != 0 || tail > UINT64_MAX / 2)
		return (err_set(err, ERR_CORRUPT, "%s: positions disagree: "
		    "head %llu, done %llu, tail %llu", path,
		    (unsigned long long)head, (unsigned long long)done,
		    (unsigned long long)tail));
	return (0);
}

/* May a published entry be at e, and end at or before `end`? */
static bool
plausible(const struct entry *e, uint64_t end)
{
	return (e != NULL && e->len != 0 && e->len <= e->room &&
	    entry_end(e) <= end);
}

/* Every entry between head and tail must be whole and in its place. */
static int
check_entries(struct journal *j, const char *path, struct err *err)
{
	uint64_t pos, tail = LOAD(j->h->tail);
	struct entry *e;

	for (pos = LOAD(j->h->head); pos < tail; pos = entry_end(e)) {
		e = journal_at(j, pos);
		if (!plausible(e, tail) ||
		    (j->sealed && e->seal != entry_seal(j, e)))
			return (err_set(err, ERR_CORRUPT,
			    "%s: no valid entry at position %llu", path,
			    (unsigned long long)pos));
		if (e->time_ns > j->clock_ns)
			j->clock_ns = e->time_ns;
	}
	return (0);
}

int
journal_open(struct journal *j, const char *path, uint32_t worker,
    bool *missing, bool *old_boot, struct err *err)
{
	struct stat st;
	uint8_t boot[16];

	memset(j, 0, sizeof(*j));
	*missing = *old_boot = false;
	if ((j->fd = open(path, O_RDWR | O_CLOEXEC)) == -1) {
		*missing = errno == ENOENT;
		return (err_sys(err, ERR_STORAGE, "cannot open %s", path));
	}
	if (fstat(j->fd, &st) == -1) {
		(void)err_sys(err, ERR_STORAGE, "cannot stat %s", path);
		goto fail;
	}
	if (st.st_size < HEAD_SIZE) {
		(void)err_set(err, ERR_CORRUPT, "%s is too short", path);
		goto fail;
	}
	if (map_head(j, path, err) == -1)
		goto fail;
	if (j->h->magic == 0) {		/* its creation was interrupted */
		*missing = true;
		(void)err_set(err, ERR_CORRUPT, "%s was never finished", path);
		goto fail;
	}
	if (clock_boot_id(boot, err) == -1)
		goto fail;
	*old_boot = memcmp(boot, j->h->boot, sizeof(boot)) != 0;
	j->sealed = j->h->sealed != 0;
	if (check_head(j, path, worker, (uint64_t)st.st_size, err) == -1 ||
	    (!(j->sealed && *old_boot) &&
	    check_positions(j, path, err) == -1))
		goto fail;
	j->size = j->h->size;
	if (map_ring(j, path, err) == -1)
		goto fail;
	if (!(j->sealed && *old_boot) && check_entries(j, path, err) == -1)
		goto fail;
	return (0);
fail:
	journal_close(j);
	return (-1);
}

static int
read_head(int fd, const char *path, uint32_t worker, struct journal_head *h,
    struct err *err)
{
	struct journal j = { .h = h };
	struct stat st;

	if (pread(fd, h, sizeof(*h), 0) != (ssize_t)sizeof(*h) ||
	    fstat(fd, &st) == -1)
		return (err_sys(err, ERR_STORAGE, "cannot read %s", path));
	return (check_head(&j, path, worker, (uint64_t)st.st_size, err));
}

static int
copy_bytes(int in, int out, const char *to, struct err *err)
{
	uint8_t buf[65536];
	ssize_t n;

	while ((n = read(in, buf, sizeof(buf))) > 0)
		if (write(out, buf, (size_t)n) != n)
			return (err_sys(err, ERR_STORAGE, "cannot write %s",
			    to));
	return (n == 0 ? 0 : err_sys(err, ERR_STORAGE, "cannot read for %s",
	    to));
}

int
journal_copy(const char *from, const char *to, uint32_t worker,
    uint64_t *head, struct err *err)
{
	struct journal_head before, after;
	int in, out = -1, r = -1;

	if ((in = open(from, O_RDONLY | O_CLOEXEC)) == -1)
		return (err_sys(err, ERR_STORAGE, "cannot open %s", from));
	if (read_head(in, from, worker, &before, err) == -1)
		goto out;
	out = open(to, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (out == -1) {
		(void)err_sys(err, ERR_STORAGE, "cannot create %s", to);
		goto out;
	}
	if (copy_bytes(in, out, to, err) == -1 ||
	    read_head(in, from, worker, &after, err) == -1)
		goto out;
	/* Entries that were there before, and are not freed yet, are whole:
	 * new ones only go where nothing is. */
	*head = LOAD(after.head);
	STORE(before.head, *head);
	if (LOAD(before.done) < *head)
		STORE(before.done, *head);
	if (LOAD(before.tail) < *head)
		STORE(before.tail, *head);
	r = pwrite(out, &before, sizeof(before), 0) ==
	    (ssize_t)sizeof(before) ? 0 :
	    err_sys(err, ERR_STORAGE, "cannot write %s", to);
out:
	if (out != -1)
		close(out);
	close(in);
	return (r);
}

void
journal_close(struct journal *j)
{
	if (j->ring != NULL)
		mapped_unmap(j->ring, 2 * j->size);
	if (j->h != NULL)
		mapped_unmap(j->h, HEAD_SIZE);
	if (j->fd != -1)
		close(j->fd);
	memset(j, 0, sizeof(*j));
	j->fd = -1;
}

struct journal_note *
journal_note(const struct journal *j)
{
	return ((struct journal_note *)(void *)((uint8_t *)j->h + NOTE_AT));
}

/* --- after a power loss -------------------------------------------------- */

void
journal_seal(struct journal *j)
{
	assert(journal_used(j) == 0);
	j->h->sealed = 1;
	j->sealed = true;
}

void
journal_prove(struct journal *j, uint64_t from)
{
	uint64_t pos = from;
	struct entry *e;

	assert(j->sealed);
	while ((e = journal_at(j, pos)) != NULL && plausible(e, from +
	    j->size) && (e->seal == entry_seal(j, e) ||
	    planted("STABLE11"))) {
		if (e->time_ns > j->clock_ns)
			j->clock_ns = e->time_ns;
		pos = entry_end(e);
	}
	STORE(j->h->head, from);
	STORE(j->h->done, from);
	STORE(j->h->tail, pos);
}

int
journal_cut(struct journal *j, const char *path, uint64_t pos,
    struct err *err)
{
	uint64_t head = LOAD(j->h->head), from = pos % j->size;
	uint64_t len = j->size - (pos - head), first;

	assert(j->sealed && pos >= head && pos <= LOAD(j->h->tail));
	FAULT_POINT(journal_cut_before);
	STORE(j->h->tail, pos);
	if (LOAD(j->h->done) > pos)
		STORE(j->h->done, pos);
	first = len < j->size - from ? len : j->size - from;
	if (planted("STABLE7"))
		first = len = 0;
	if (mapped_zero(j->fd, path, HEAD_SIZE + from, first, err) == -1 ||
	    mapped_zero(j->fd, path, HEAD_SIZE, len - first, err) == -1 ||
	    mapped_sync(j->fd, path, err) == -1)
		return (-1);
	/* Who was suspected may be another record now. */
	memset(journal_note(j), 0, sizeof(struct journal_note));
	/* Last: until here another attempt would find what this one found. */
	if (clock_boot_id(j->h->boot, err) == -1 ||
	    mapped_sync(j->fd, path, err) == -1)
		return (-1);
	FAULT_POINT(journal_cut_after);
	return (0);
}

void
journal_distrust(struct journal *j)
{
	memset(j->h->boot, 0, sizeof(j->h->boot));
}

int
journal_disown(const char *path, struct err *err)
{
	static const uint8_t no_boot[16];
	int fd = open(path, O_RDWR | O_CLOEXEC), r = 0;

	if (fd == -1 || pwrite(fd, no_boot, sizeof(no_boot),
	    offsetof(struct journal_head, boot)) != sizeof(no_boot))
		r = err_sys(err, ERR_STORAGE, "cannot write %s", path);
	if (fd != -1)
		close(fd);
	return (r);
}

void
journal_redo(struct journal *j, uint64_t pos)
{
	assert(pos <= LOAD(j->h->done) && pos >= LOAD(j->h->head));
	STORE(j->h->done, pos);
}

uint64_t
journal_commits(const struct journal *j)
{
	return (LOAD(j->h->commits));
}

void
journal_set_commits(struct journal *j, uint64_t n)
{
	STORE(j->h->commits, n);
}

/* --- positions ----------------------------------------------------------- */

uint64_t
journal_lineage(const struct journal *j)
{
	return (j->h->lineage);
}

uint64_t
journal_head_pos(const struct journal *j)
{
	return (LOAD(j->h->head));
}

uint64_t
journal_done(const struct journal *j)
{
	return (LOAD(j->h->done));
}

uint64_t
journal_tail(const struct journal *j)
{
	return (LOAD(j->h->tail));
}

uint64_t
journal_used(const struct journal *j)
{
	return (LOAD(j->h->tail) - LOAD(j->h->head));
}

struct entry *
journal_at(const struct journal *j, uint64_t pos)
{
	struct entry *e = slot(j, pos);

	if (e->pos != pos || e->type == 0 || e->type >= ENTRY_TYPES ||
	    e->check != entry_check(e))
		return (NULL);
	return (e);
}

uint8_t *
journal_stage(struct journal *j, enum entry_type type, uint64_t channel,
    uint64_t off, uint32_t room, uint16_t flags)
{
	uint64_t tail = LOAD(j->h->tail), now = clock_wall_ns();
	struct entry *e = slot(j, tail);

	assert(journal_used(j) + entry_size(room) <= j->size);
	if (now > j->clock_ns)
		j->clock_ns = now;
	e->pos = tail;
	e->time_ns = j->clock_ns;
	e->channel = channel;
	e->off = off;
	e->room = room;
	e->type = (uint16_t)type;
	e->flags = flags;
	e->reserved = 0;
	e->check = entry_check(e);
	/* Before the read(2) that follows, for whoever looks after a kill. */
	atomic_signal_fence(memory_order_seq_cst);
	return (e->data);
}

struct entry *
journal_staged(const struct journal *j)
{
	uint64_t tail = LOAD(j->h->tail);
	struct entry *e;

	if (journal_used(j) + ENTRY_HEADER > j->size)
		return (NULL);
	e = journal_at(j, tail);
	if (e == NULL || journal_used(j) + entry_size(e->room) > j->size)
		return (NULL);
	return (e);
}

void
journal_publish(struct journal *j, uint32_t len)
{
	uint64_t tail = LOAD(j->h->tail);
	struct entry *e = slot(j, tail);

	assert(e->pos == tail && len <= e->room && len > 0);
	FAULT_POINT(publish_before);
	e->len = len;
	if (j->sealed)
		e->seal = entry_seal(j, e);
	STORE(j->h->tail, tail + entry_size(len));
	FAULT_POINT(publish_after);
}

void
journal_release(struct journal *j, uint64_t done)
{
	assert(done >= LOAD(j->h->done) && done <= LOAD(j->h->tail));
	FAULT_POINT(release_before);
	STORE(j->h->done, done);
	FAULT_POINT(release_after);
}

void
journal_free(struct journal *j, uint64_t pos)
{
	uint64_t head = LOAD(j->h->head);
	struct entry *e;

	while (head < pos && (e = journal_at(j, head)) != NULL &&
	    entry_end(e) <= pos)
		head = entry_end(e);
	FAULT_POINT(journal_trim_before);
	STORE(j->h->head, head);
	FAULT_POINT(journal_trim_after);
}
