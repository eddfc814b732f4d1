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
#include "worker/mapped.h"
#include "worker/outbox.h"

#define OUTBOX_MAGIC	0x786f626f6c6c6177ULL
#define OUTBOX_VERSION	1
#define SEGMENT		(256 * 1024)
#define STRETCH		16
#define KEEP_SPARE	16	/* segments */
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
	struct outbox_sink	sink;
};

#define LOAD(w)		atomic_load_explicit(&(w), memory_order_acquire)
#define STORE(w, v)	atomic_store_explicit(&(w), (v), memory_order_release)

_Static_assert(sizeof(struct outbox_head) <= FIXED, "head too large");

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

static uint64_t
first_segment(const struct outbox *o)
{
	return (LOAD(o->h->head) / SEGMENT);
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
		if (next > tail || f.pos < pos)
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

int
outbox_open(struct outbox *o, const char *path, bool *missing, struct err *err)
{
	struct outbox_head h;
	struct stat st;
	ssize_t n;

	memset(o, 0, sizeof(*o));
	*missing = false;
	o->path = xstrdup(path);
	if ((o->fd = open(path, O_RDWR | O_CLOEXEC)) == -1) {
		*missing = errno == ENOENT;
		(void)err_sys(err, ERR_STORAGE, "cannot open %s", path);
		goto fail;
	}
	n = pread(o->fd, &h, sizeof(h), 0);
	if (n == -1 || fstat(o->fd, &st) == -1) {
		(void)err_sys(err, ERR_STORAGE, "cannot read %s", path);
		goto fail;
	}
	if (n == (ssize_t)sizeof(h) && h.magic == 0) {
		*missing = true;
		(void)err_set(err, ERR_CORRUPT, "%s was never finished", path);
		goto fail;
	}
	if (n != (ssize_t)sizeof(h) || h.magic != OUTBOX_MAGIC ||
	    h.version != OUTBOX_VERSION || h.nslots == 0 ||
	    h.nslots > (1U << 20) || (uint64_t)st.st_size <
	    head_size(h.nslots) + (uint64_t)h.physical * SEGMENT ||
	    h.physical > h.nslots || h.head > h.tail ||
	    h.tail > UINT64_MAX / 2) {
		(void)err_set(err, ERR_CORRUPT,
		    "%s is not an outbox of this version", path);
		goto fail;
	}
	o->nslots = h.nslots;
	o->head_size = head_size(h.nslots);
	if ((o->h = mapped_at(NULL, o->fd, what(o), 0, o->head_size, err)) ==
	    NULL)
		goto fail;
	o->segment = xcalloc(o->nslots, sizeof(*o->segment));
	o->spare = xcalloc(o->nslots, sizeof(*o->spare));
	o->hollow = xcalloc(o->nslots, sizeof(*o->hollow));
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
			munmap(o->segment[i], SEGMENT);
	if (o->h != NULL)
		munmap(o->h, o->head_size);
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

void
outbox_free(struct outbox *o, uint64_t off)
{
	uint64_t head = LOAD(o->h->head), tail = LOAD(o->h->tail);
	uint64_t s, end, payload = LOAD(o->h->payload);
	struct frame f;

	assert(off <= tail);
	s = head / SEGMENT;
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
	/* The segment that the tail is in stays, even when it is empty. */
	for (; s < head / SEGMENT && s < end_segment(o); s++)
		o->spare[o->nspare++] = table(o)[s % o->nslots];
	shrink(o);
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
	old = end_segment(o);
	STORE(o->h->tail, off);
	for (s = end_segment(o); s < old; s++)
		o->spare[o->nspare++] = table(o)[s % o->nslots];
}
