/* See outbox.h. */
#include <sys/mman.h>
#include <sys/stat.h>

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/mem.h"
#include "common/part.h"
#include "worker/mapped.h"
#include "worker/outbox.h"
#include "worker/planted.h"
#include "worker/sizes.h"

#define OUTBOX_MAGIC	0x786f626f6c6c6177ULL
#define OUTBOX_VERSION	2
#define STRETCH		16
#define FIXED		4096	/* bytes of the head before the table */

struct outbox_head {
	uint64_t		magic;
	uint32_t		version;
	uint32_t		nslots;
	uint64_t		lineage;
	_Atomic uint64_t	head;
	_Atomic uint64_t	tail;
	_Atomic uint64_t	payload;	/* offset at head == tail */
	uint32_t		physical;	/* segments that the file has */
	uint32_t		sealed;
	_Atomic uint64_t	commits;
	struct outbox_sink	sink;
};

#define LOAD(w)		atomic_load_explicit(&(w), memory_order_acquire)
#define STORE(w, v)	atomic_store_explicit(&(w), (v), memory_order_release)

/* Of a sealed outbox in a checkpoint; the table's part follows, u32 for each
 * segment from the head's to the tail's. */
struct snapshot {
	uint64_t		lineage;
	uint64_t		head;
	uint64_t		tail;
	uint64_t		payload;	/* at head == tail */
	struct outbox_sink	sink;
};

_Static_assert(sizeof(struct outbox_head) <= MAPPED_RETIRED,
    "head too large");

/* table[logical segment % nslots] = physical segment */
static uint32_t *
table(const struct outbox *o)
{
	return ((uint32_t *)(void *)((uint8_t *)o->h + FIXED));
}

static uint64_t
head_size(uint32_t nslots)
{
	return (FIXED + (((uint64_t)nslots * 4 + 4095) & ~(uint64_t)4095));
}

static const char *
what(const struct outbox *o)
{
	return (o->path == NULL ? "memory file" : o->path);
}

static int
map_segment(struct outbox *o, uint32_t phys, struct err *err)
{
	if (o->segment[phys] != NULL)
		return (0);
	o->segment[phys] = mapped_at(NULL, o->fd, what(o),
	    o->head_size + (uint64_t)phys * SEGMENT, SEGMENT, err);
	return (o->segment[phys] == NULL ? -1 : 0);
}

/* One more segment with space: one that gave its space back, or a new one at
 * the end of the file. */
static int
grow(struct outbox *o, struct err *err)
{
	bool again = o->nhollow > 0;
	uint32_t phys = again ? o->hollow[o->nhollow - 1] : o->h->physical;

	if (phys >= o->nslots)
		return (err_set(err, ERR_LIMIT, "%s is full", what(o)));
	FAULT_POINT(outbox_grow_before);
	if (mapped_allocate(o->fd, what(o),
	    o->head_size + (uint64_t)phys * SEGMENT, SEGMENT, err) == -1 ||
	    map_segment(o, phys, err) == -1)
		return (-1);
	if (again)
		o->nhollow--;
	else
		o->h->physical = phys + 1;
	FAULT_POINT(outbox_grow_after);
	o->spare[o->nspare++] = phys;
	return (0);
}

int
outbox_create(struct outbox *o, const char *path, uint64_t limit,
    uint64_t lineage, uint64_t payload, struct err *err)
{
	memset(o, 0, sizeof(*o));
	/* The bound is for admission.  What is journaled already must always
	 * find room, whatever it fans out to: waiting here would deadlock. */
	o->nslots = (uint32_t)((limit * STRETCH + SEGMENT - 1) / SEGMENT) + 1;
	o->head_size = head_size(o->nslots);
	o->path = path == NULL ? NULL : xstrdup(path);
	if (mapped_create(path, o->head_size, &o->fd, err) == -1) {
		o->fd = -1;
		outbox_close(o);
		return (-1);
	}
	if ((o->h = mapped_at(NULL, o->fd, what(o), 0, o->head_size, err)) ==
	    NULL) {
		outbox_close(o);
		return (-1);
	}
	o->segment = xcalloc(o->nslots, sizeof(*o->segment));
	o->spare = xcalloc(o->nslots, sizeof(*o->spare));
	o->hollow = xcalloc(o->nslots, sizeof(*o->hollow));
	o->h->version = OUTBOX_VERSION;
	o->h->nslots = o->nslots;
	o->h->lineage = lineage;
	o->payload_tail = payload;
	STORE(o->h->payload, payload);
	o->h->sink.resume = payload;
	/* The first segment now: a full file system is told at the start. */
	if (grow(o, err) == -1) {
		outbox_close(o);
		return (-1);
	}
	atomic_thread_fence(memory_order_release);
	*(volatile uint64_t *)&o->h->magic = OUTBOX_MAGIC;
	return (0);
}

/* The first segment that must stay as it is. */
static uint64_t
first_segment(const struct outbox *o)
{
	bool keep = o->sealed && !planted("STABLE6");

	return ((keep ? o->kept : LOAD(o->h->head)) / SEGMENT);
}

/* One past the last segment that holds anything. */
static uint64_t
end_segment(const struct outbox *o)
{
	return ((LOAD(o->h->tail) + SEGMENT - 1) / SEGMENT);
}

/* Which physical segments are in use follows from head and tail alone. */
static int
find_segments(struct outbox *o, struct err *err)
{
	uint64_t s;
	uint32_t phys, i;
	uint8_t *used = xcalloc(o->nslots, 1);

	for (s = first_segment(o); s < end_segment(o); s++) {
		phys = table(o)[s % o->nslots];
		if (phys >= o->h->physical || used[phys]) {
			free(used);
			return (err_set(err, ERR_CORRUPT,
			    "%s: segment table is damaged", what(o)));
		}
		used[phys] = 1;
		if (map_segment(o, phys, err) == -1) {
			free(used);
			return (-1);
		}
	}
	for (i = 0; i < o->h->physical; i++) {
		if (used[i])
			continue;
		if (map_segment(o, i, err) == -1) {
			free(used);
			return (-1);
		}
		o->hollow[o->nhollow++] = i;
	}
	free(used);
	return (0);
}

bool
frame_fits(const struct frame *f, struct slice s)
{
	uint64_t sum = 0;
	uint32_t i, len;

	if ((uint64_t)f->len + f->lens != s.len)
		return (false);
	if (f->lens == 0)
		return (true);
	if (f->lens != (uint64_t)f->records * sizeof(len))
		return (false);
	for (i = 0; i < f->records; i++) {
		memcpy(&len, s.data + f->len + i * sizeof(len), sizeof(len));
		sum += len;
	}
	return (sum == f->len);
}

/* Never 0, which is what an unsealed frame has. */
static uint64_t
frame_seal(const struct outbox *o, uint64_t off, const struct frame *f,
    struct slice body, struct slice lens)
{
	uint64_t seed[2] = { o->h->lineage, off }, s;

	s = part_seal(slice_of(f, offsetof(struct frame, seal)),
	    part_hash(slice_of(seed, sizeof(seed))));
	s = part_seal(body, s);
	return ((lens.len == 0 ? s : part_seal(lens, s)) | 1);
}

static uint64_t
stored_seal(const struct outbox *o, uint64_t off, const struct frame *f)
{
	struct buf b = { 0 };
	uint64_t n = (uint64_t)f->len + f->lens, s;

	outbox_read(o, off + FRAME_HEADER, buf_reserve(&b, n + 1), n);
	s = frame_seal(o, off, f, slice_of(b.data, f->len),
	    slice_of(b.data + f->len, f->lens));
	buf_fini(&b);
	return (s);
}

/* Walk all frames: they must fit, and their payload offsets must add up. */
static int
check_frames(struct outbox *o, struct err *err)
{
	uint64_t off = LOAD(o->h->head), tail = LOAD(o->h->tail);
	uint64_t next, pos = 0;
	struct frame f;

	o->payload_tail = LOAD(o->h->payload);
	while (off < tail) {
		if (tail - off < FRAME_HEADER)
			goto bad;
		next = outbox_frame(o, off, &f);
		if (next > tail || next < off || f.pos < pos)
			goto bad;
		if (o->sealed && f.seal != stored_seal(o, off, &f))
			goto bad;
		pos = f.pos;
		o->payload_tail = f.payload + f.len;
		off = next;
	}
	return (0);
bad:
	return (err_set(err, ERR_CORRUPT, "%s: no valid frame at offset %llu",
	    what(o), (unsigned long long)off));
}

static int
map_file(struct outbox *o, const struct outbox_head *h, struct err *err)
{
	struct stat st;

	o->nslots = h->nslots;
	o->head_size = head_size(h->nslots);
	if (fstat(o->fd, &st) == -1)
		return (err_sys(err, ERR_STORAGE, "cannot read %s", what(o)));
	/* What lies behind the file's end would be a fault when read. */
	if ((uint64_t)st.st_size < o->head_size)
		return (err_set(err, ERR_CORRUPT, "%s is shorter than its "
		    "head says", what(o)));
	if ((o->h = mapped_at(NULL, o->fd, what(o), 0,
	    o->head_size, err)) == NULL)
		return (-1);
	o->segment = xcalloc(o->nslots, sizeof(*o->segment));
	o->spare = xcalloc(o->nslots, sizeof(*o->spare));
	o->hollow = xcalloc(o->nslots, sizeof(*o->hollow));
	o->sealed = h->sealed != 0;
	o->kept = o->saved = LOAD(o->h->head);
	return (0);
}

/* Open the file and read what never changes in its head. */
static int
open_file(struct outbox *o, const char *path, struct outbox_head *h,
    bool *missing, struct err *err)
{
	ssize_t n;

	memset(o, 0, sizeof(*o));
	*missing = false;
	o->path = xstrdup(path);
	if ((o->fd = open(path, O_RDWR | O_CLOEXEC)) == -1) {
		*missing = errno == ENOENT;
		(void)err_sys(err, ERR_STORAGE, "cannot open %s", path);
		goto fail;
	}
	n = pread(o->fd, h, sizeof(*h), 0);
	if (n == -1) {
		(void)err_sys(err, ERR_STORAGE, "cannot read %s", path);
		goto fail;
	}
	if (n == (ssize_t)sizeof(*h) && h->magic == 0) {
		*missing = true;
		(void)err_set(err, ERR_CORRUPT, "%s was never finished", path);
		goto fail;
	}
	if (n != (ssize_t)sizeof(*h) || h->magic != OUTBOX_MAGIC ||
	    h->version != OUTBOX_VERSION || h->nslots == 0 ||
	    h->nslots > (1U << 20)) {
		(void)err_set(err, ERR_CORRUPT,
		    "%s is not an outbox of this version", path);
		goto fail;
	}
	return (0);
fail:
	outbox_close(o);
	return (-1);
}

/* Whole segments that the file has. */
static int
physical_of(const struct outbox *o, uint32_t *physical, struct err *err)
{
	struct stat st;
	uint64_t n = 0;

	if (fstat(o->fd, &st) == -1)
		return (err_sys(err, ERR_STORAGE, "cannot read %s", what(o)));
	if ((uint64_t)st.st_size > o->head_size)
		n = ((uint64_t)st.st_size - o->head_size) / SEGMENT;
	*physical = n < o->nslots ? (uint32_t)n : o->nslots;
	return (0);
}

int
outbox_open(struct outbox *o, const char *path, bool *missing, struct err *err)
{
	struct outbox_head h;
	uint32_t physical;

	if (open_file(o, path, &h, missing, err) == -1)
		return (-1);
	if (map_file(o, &h, err) == -1)
		goto fail;
	if (physical_of(o, &physical, err) == -1)
		goto fail;
	if (o->h->physical > physical || h.head > h.tail ||
	    h.tail > UINT64_MAX / 2) {
		(void)err_set(err, ERR_CORRUPT,
		    "%s is not an outbox of this version", path);
		goto fail;
	}
	if (find_segments(o, err) == -1 || check_frames(o, err) == -1)
		goto fail;
	return (0);
fail:
	outbox_close(o);
	return (-1);
}

void
outbox_close(struct outbox *o)
{
	uint32_t i;

	for (i = 0; o->segment != NULL && i < o->nslots; i++)
		if (o->segment[i] != NULL)
			mapped_unmap(o->segment[i], SEGMENT);
	if (o->h != NULL)
		mapped_unmap(o->h, o->head_size);
	if (o->fd != -1)
		close(o->fd);
	free(o->segment);
	free(o->spare);
	free(o->hollow);
	free(o->path);
	memset(o, 0, sizeof(*o));
	o->fd = -1;
}

void
outbox_begin(struct outbox *o, uint64_t payload)
{
	assert(outbox_used(o) == 0);
	o->payload_tail = payload;
	STORE(o->h->payload, payload);
}

uint64_t
outbox_lineage(const struct outbox *o)
{
	return (o->h->lineage);
}

uint64_t
outbox_head(const struct outbox *o)
{
	return (LOAD(o->h->head));
}

uint64_t
outbox_tail(const struct outbox *o)
{
	return (LOAD(o->h->tail));
}

uint64_t
outbox_used(const struct outbox *o)
{
	return (LOAD(o->h->tail) - LOAD(o->h->head));
}

struct outbox_sink *
outbox_sink(struct outbox *o)
{
	return (&o->h->sink);
}

/* After a spell of pressure the space goes back to the file system. */
static void
shrink(struct outbox *o)
{
	uint32_t phys;

	while (o->nspare > KEEP_SPARE) {
		phys = o->spare[--o->nspare];
		(void)fallocate(o->fd, FALLOC_FL_PUNCH_HOLE |
		    FALLOC_FL_KEEP_SIZE, (off_t)(o->head_size +
		    (uint64_t)phys * SEGMENT), SEGMENT);
		o->hollow[o->nhollow++] = phys;
	}
}

int
outbox_reserve(struct outbox *o, uint64_t n, struct err *err)
{
	uint64_t tail = LOAD(o->h->tail);
	uint64_t have = end_segment(o) * SEGMENT;
	uint64_t need = tail + n > have ?
	    (tail + n - have + SEGMENT - 1) / SEGMENT : 0;

	if (end_segment(o) + need - first_segment(o) > o->nslots)
		return (err_set(err, ERR_LIMIT, "%s is full", what(o)));
	while (o->nspare < need)
		if (grow(o, err) == -1)
			return (-1);
	return (0);
}

/* Copy to the stream at off, taking spare segments as they are reached. */
static uint64_t
put(struct outbox *o, uint64_t off, const void *data, uint64_t n)
{
	const uint8_t *p = data;
	uint64_t in, k;
	uint32_t phys;

	while (n > 0) {
		in = off % SEGMENT;
		if (in == 0) {
			assert(o->nspare > 0);
			phys = o->spare[--o->nspare];
			table(o)[off / SEGMENT % o->nslots] = phys;
		}
		phys = table(o)[off / SEGMENT % o->nslots];
		k = SEGMENT - in < n ? SEGMENT - in : n;
		memcpy(o->segment[phys] + in, p, k);
		off += k;
		p += k;
		n -= k;
	}
	return (off);
}

void
outbox_append(struct outbox *o, struct frame *f, struct slice body,
    const uint32_t *lens)
{
	uint64_t off = LOAD(o->h->tail);

	f->len = (uint32_t)body.len;
	f->lens = lens == NULL ? 0 : f->records * 4;
	f->payload = o->payload_tail;
	f->seal = o->sealed ? frame_seal(o, off, f, body,
	    slice_of(lens, f->lens)) : 0;
	off = put(o, off, f, FRAME_HEADER);
	off = put(o, off, body.data, body.len);
	if (lens != NULL)
		off = put(o, off, lens, f->lens);
	o->payload_tail += body.len;
	FAULT_POINT(frame_put_before);
	STORE(o->h->tail, off);
	FAULT_POINT(frame_put_after);
}

int
outbox_iov(const struct outbox *o, uint64_t off, uint64_t n,
    struct iovec *iov, int max)
{
	uint64_t in, k;
	int i;

	for (i = 0; i < max && n > 0; i++) {
		in = off % SEGMENT;
		k = SEGMENT - in < n ? SEGMENT - in : n;
		iov[i].iov_base =
		    o->segment[table(o)[off / SEGMENT % o->nslots]] + in;
		iov[i].iov_len = k;
		off += k;
		n -= k;
	}
	return (i);
}

void
outbox_read(const struct outbox *o, uint64_t off, void *to, uint64_t n)
{
	struct iovec v;
	uint8_t *p = to;

	while (n > 0) {
		(void)outbox_iov(o, off, n, &v, 1);
		memcpy(p, v.iov_base, v.iov_len);
		p += v.iov_len;
		off += v.iov_len;
		n -= v.iov_len;
	}
}

uint64_t
outbox_frame(const struct outbox *o, uint64_t off, struct frame *f)
{
	outbox_read(o, off, f, FRAME_HEADER);
	return (off + FRAME_HEADER + f->len + f->lens);
}

/* Segments from s on that nothing needs any more.  The one that the tail is
 * in stays, even when it is empty. */
static void
recycle(struct outbox *o, uint64_t s)
{
	for (; s < first_segment(o) && s < end_segment(o); s++)
		o->spare[o->nspare++] = table(o)[s % o->nslots];
	shrink(o);
}

void
outbox_free(struct outbox *o, uint64_t off)
{
	uint64_t head = LOAD(o->h->head), tail = LOAD(o->h->tail);
	uint64_t s, end, payload = LOAD(o->h->payload);
	struct frame f;

	assert(off <= tail);
	s = first_segment(o);
	while (head < off) {
		end = outbox_frame(o, head, &f);
		if (end > off)
			break;
		payload = f.payload + f.len;
		head = end;
	}
	FAULT_POINT(outbox_trim_before);
	/* payload first: read only when head has reached tail */
	STORE(o->h->payload, payload);
	STORE(o->h->head, head);
	FAULT_POINT(outbox_trim_after);
	recycle(o, s);
}

void
outbox_cut(struct outbox *o, uint64_t pos)
{
	uint64_t off = LOAD(o->h->head), tail = LOAD(o->h->tail), next, s, old;
	struct frame f;

	o->payload_tail = LOAD(o->h->payload);
	while (off < tail) {
		next = outbox_frame(o, off, &f);
		if (f.pos > pos)
			break;
		o->payload_tail = f.payload + f.len;
		off = next;
	}
	if (off == tail)
		return;
	assert(!o->sealed || off >= o->kept);
	old = end_segment(o);
	STORE(o->h->tail, off);
	for (s = end_segment(o); s < old; s++)
		o->spare[o->nspare++] = table(o)[s % o->nslots];
}

/* --- sealed ones --------------------------------------------------------- */

void
outbox_seal(struct outbox *o)
{
	assert(outbox_tail(o) == 0);
	o->h->sealed = 1;
	o->sealed = true;
}

bool
outbox_sealed(const struct outbox *o)
{
	return (o->sealed);
}

uint64_t
outbox_waiting(const struct outbox *o)
{
	return (o->sealed ? LOAD(o->h->head) - o->kept : 0);
}

int
outbox_commits(const char *path, uint64_t *commits)
{
	struct outbox_head h;
	ssize_t n;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd == -1)
		return (-1);
	n = pread(fd, &h, sizeof(h), 0);
	close(fd);
	if (n != (ssize_t)sizeof(h) || h.magic != OUTBOX_MAGIC)
		return (-1);
	*commits = h.commits;
	return (0);
}

void
outbox_set_commits(struct outbox *o, uint64_t n)
{
	STORE(o->h->commits, n);
}

void
outbox_snapshot(struct outbox *o, struct buf *b)
{
	struct snapshot n = { o->h->lineage, LOAD(o->h->head),
	    LOAD(o->h->tail), LOAD(o->h->payload), o->h->sink };
	uint64_t s;

	buf_add(b, &n, sizeof(n));
	for (s = n.head / SEGMENT; s < end_segment(o); s++)
		buf_add(b, &table(o)[s % o->nslots], sizeof(uint32_t));
	o->saved = n.head;
	o->saved_sink = n.sink;
}

bool
outbox_same_file(const struct outbox *o)
{
	const struct outbox_sink *a = &o->saved_sink, *b = &o->h->sink;

	return (b->opened == 1 && a->opened == 1 && a->dev == b->dev &&
	    a->ino == b->ino && a->file_shift == b->file_shift);
}

void
outbox_committed(struct outbox *o)
{
	uint64_t s = first_segment(o);

	o->kept = o->saved;
	recycle(o, s);
}

static int
read_snapshot(const struct outbox *o, struct slice from, struct snapshot *n,
    struct err *err)
{
	uint64_t segments;

	if (from.len >= sizeof(*n)) {
		memcpy(n, from.data, sizeof(*n));
		segments = (n->tail + SEGMENT - 1) / SEGMENT -
		    n->head / SEGMENT;
		if (n->head <= n->tail && segments <= o->nslots &&
		    from.len == sizeof(*n) + segments * sizeof(uint32_t))
			return (0);
	}
	return (err_set(err, ERR_CORRUPT, "%s: the checkpoint does not say "
	    "where it stood", what(o)));
}

int
outbox_keep(struct outbox *o, struct slice from, struct err *err)
{
	struct snapshot n;

	if (read_snapshot(o, from, &n, err) == -1)
		return (-1);
	if (n.lineage != o->h->lineage || n.head > LOAD(o->h->head) ||
	    n.tail > LOAD(o->h->tail))
		return (err_set(err, ERR_CORRUPT, "%s ends at offset %llu, "
		    "the checkpoint has it up to %llu: an older copy?",
		    what(o), (unsigned long long)LOAD(o->h->tail),
		    (unsigned long long)n.tail));
	o->kept = o->saved = n.head;
	o->nspare = o->nhollow = 0;
	return (find_segments(o, err));
}

/* As it was, over whatever the disk made of the words in the head. */
static int
rewind_to(struct outbox *o, const struct snapshot *n, struct slice from,
    struct err *err)
{
	const uint8_t *p = from.data + sizeof(*n);
	uint64_t s;

	STORE(o->h->head, n->head);
	STORE(o->h->tail, n->tail);
	STORE(o->h->payload, n->payload);
	o->h->sink = n->sink;
	o->kept = o->saved = n->head;
	for (s = n->head / SEGMENT; s < end_segment(o); s++, p += 4)
		memcpy(&table(o)[s % o->nslots], p, 4);
	if (find_segments(o, err) == -1 || check_frames(o, err) == -1)
		return (-1);
	return (mapped_sync(o->fd, what(o), err));
}

int
outbox_restore(struct outbox *o, const char *path, uint64_t lineage,
    struct slice from, bool *missing, struct err *err)
{
	struct outbox_head h;
	struct snapshot n;
	uint32_t physical;

	if (open_file(o, path, &h, missing, err) == -1)
		return (-1);
	if (h.lineage != lineage || !h.sealed) {
		(void)err_set(err, ERR_REFUSED, "%s is of another life of "
		    "this worker", path);
		goto fail;
	}
	if (map_file(o, &h, err) == -1 ||
	    read_snapshot(o, from, &n, err) == -1)
		goto fail;
	/* The file may have grown since the count was last on the disk. */
	if (physical_of(o, &physical, err) == -1)
		goto fail;
	o->h->physical = physical;
	if (rewind_to(o, &n, from, err) == -1)
		goto fail;
	return (0);
fail:
	outbox_close(o);
	return (-1);
}
