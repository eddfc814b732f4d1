/*
 * SQLite for the targets, several times as fast as on files: its files are in
 * memory and so is what it allocates, in pieces that are used again.  A piece
 * that is free is poison to the address sanitizer, so that what points into a
 * row that is gone is found as before.
 */
#include <sqlite3.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "tests/fuzz/fuzz.h"

#define FILES		16
#define FILE_MAX	(8 << 20)	/* then the disk is full */
#define REGIONS		8		/* of a file's index of its WAL */
#define SECTOR		4096

/* --- memory -------------------------------------------------------------- */

#ifdef FUZZ_LIBFUZZER
/* Nothing here is what is tested. */
#pragma clang attribute push(__attribute__((no_sanitize("coverage",	\
    "address", "undefined"))), apply_to = function)
#endif
#if defined(FUZZ_LIBFUZZER) || defined(__SANITIZE_ADDRESS__)
void	__asan_poison_memory_region(const volatile void *, size_t);
void	__asan_unpoison_memory_region(const volatile void *, size_t);
#define POISON(p, n)	__asan_poison_memory_region(p, n)
#define UNPOISON(p, n)	__asan_unpoison_memory_region(p, n)
#else
#define POISON(p, n)	((void)(p), (void)(n))
#define UNPOISON(p, n)	((void)(p), (void)(n))
#endif

#define LEAST		5		/* 2^LEAST bytes and their head */
#define CLASSES		20

struct piece {
	uint64_t	 size_class;
	struct piece	*next;		/* when free: as long as it is so */
};

/* The one that is free for longest is used next. */
static struct piece *first[CLASSES], **last[CLASSES];

static uint64_t
class_of(int n)
{
	if (n <= 1 << LEAST)
		return (0);
	return (32 - (uint64_t)__builtin_clz((unsigned int)n - 1) - LEAST);
}

static void *
db_malloc(int n)
{
	uint64_t c = class_of(n);
	struct piece *p;

	if (c >= CLASSES)
		return (NULL);
	if ((p = first[c]) == NULL) {
		p = xmalloc(sizeof(*p) + (1U << (LEAST + c)));
		p->size_class = c;
	} else if ((first[c] = p->next) == NULL)
		last[c] = NULL;
	UNPOISON(p + 1, 1U << (LEAST + c));
	return (p + 1);
}

static void
db_free(void *data)
{
	struct piece *p = (struct piece *)data - 1;
	uint64_t c = p->size_class;

	POISON(data, 1U << (LEAST + c));
	p->next = NULL;
	if (last[c] == NULL)
		first[c] = p;
	else
		*last[c] = p;
	last[c] = &p->next;
}

static int
db_size(void *data)
{
	return (1 << (LEAST + ((struct piece *)data - 1)->size_class));
}

static int
db_roundup(int n)
{
	uint64_t c = class_of(n);

	return (c >= CLASSES ? n : 1 << (LEAST + c));
}

static void *
db_realloc(void *data, int n)
{
	void *new;

	if (n <= db_size(data))
		return (data);
	if ((new = db_malloc(n)) == NULL)
		return (NULL);
	memcpy(new, data, (size_t)db_size(data));
	db_free(data);
	return (new);
}

static int
db_init(void *arg)
{
	(void)arg;
	return (SQLITE_OK);
}

static void
db_shutdown(void *arg)
{
	(void)arg;
}

/* --- files --------------------------------------------------------------- */

static struct mem {
	char		 path[128];	/* "": there is none */
	struct buf	 bytes;
	void		*region[REGIONS];
	int		 nregions;
} files[FILES];

struct handle {
	sqlite3_file	 base;
	struct mem	*mem;
	bool		 gone;		/* when it is closed */
};

static struct mem *
of_path(const char *path)
{
	size_t i;

	for (i = 0; i < FILES; i++)
		if (strcmp(files[i].path, path) == 0)
			return (&files[i]);
	return (NULL);
}

static struct mem *
make(const char *path)
{
	struct mem *m = of_path("");

	fuzz_check(m != NULL && strlen(path) < sizeof(m->path));
	memcpy(m->path, path, strlen(path) + 1);
	buf_clear(&m->bytes);
	return (m);
}

static int
f_close(sqlite3_file *f)
{
	struct handle *h = (struct handle *)f;

	if (h->gone)
		h->mem->path[0] = '\0';
	return (SQLITE_OK);
}

static int
f_read(sqlite3_file *f, void *to, int n, sqlite3_int64 off)
{
	const struct buf *b = &((struct handle *)f)->mem->bytes;
	size_t there;

	there = off >= (sqlite3_int64)b->len ? 0 : b->len - (size_t)off;
	if (there > (size_t)n)
		there = (size_t)n;
	if (there > 0)
		memcpy(to, b->data + off, there);
	if (there == (size_t)n)
		return (SQLITE_OK);
	memset((char *)to + there, 0, (size_t)n - there);
	return (SQLITE_IOERR_SHORT_READ);
}

static int
f_truncate(sqlite3_file *f, sqlite3_int64 size)
{
	struct buf *b = &((struct handle *)f)->mem->bytes;
	size_t n = (size_t)size, more;

	if (size > FILE_MAX)
		return (SQLITE_FULL);
	if (n > b->len) {
		more = n - b->len;
		memset(buf_reserve(b, more), 0, more);
	}
	b->len = n;
	return (SQLITE_OK);
}

static int
f_write(sqlite3_file *f, const void *from, int n, sqlite3_int64 off)
{
	struct buf *b = &((struct handle *)f)->mem->bytes;
	int rc;

	if (off + n > (sqlite3_int64)b->len &&
	    (rc = f_truncate(f, off + n)) != SQLITE_OK)
		return (rc);
	memcpy(b->data + off, from, (size_t)n);
	return (SQLITE_OK);
}

static int
f_sync(sqlite3_file *f, int flags)
{
	(void)f;
	(void)flags;
	return (SQLITE_OK);
}

static int
f_size(sqlite3_file *f, sqlite3_int64 *size)
{
	*size = (sqlite3_int64)((struct handle *)f)->mem->bytes.len;
	return (SQLITE_OK);
}

/* Nobody else is there. */
static int
f_lock(sqlite3_file *f, int how)
{
	(void)f;
	(void)how;
	return (SQLITE_OK);
}

static int
f_reserved(sqlite3_file *f, int *is)
{
	(void)f;
	*is = 0;
	return (SQLITE_OK);
}

static int
f_control(sqlite3_file *f, int op, void *arg)
{
	(void)f;
	(void)op;
	(void)arg;
	return (SQLITE_NOTFOUND);
}

static int
f_sector(sqlite3_file *f)
{
	(void)f;
	return (SECTOR);
}

static int
f_device(sqlite3_file *f)
{
	(void)f;
	return (SQLITE_IOCAP_POWERSAFE_OVERWRITE);
}

static int
f_shm_map(sqlite3_file *f, int i, int size, int extend, void volatile **p)
{
	struct mem *m = ((struct handle *)f)->mem;

	*p = NULL;
	if (i >= REGIONS)
		return (SQLITE_FULL);
	for (; extend && m->nregions <= i; m->nregions++) {
		if (m->region[m->nregions] == NULL)
			m->region[m->nregions] = xmalloc((size_t)size);
		memset(m->region[m->nregions], 0, (size_t)size);
	}
	if (i < m->nregions)
		*p = m->region[i];
	return (SQLITE_OK);
}

static int
f_shm_lock(sqlite3_file *f, int off, int n, int flags)
{
	(void)f;
	(void)off;
	(void)n;
	(void)flags;
	return (SQLITE_OK);
}

static void
f_shm_barrier(sqlite3_file *f)
{
	(void)f;
}

static int
f_shm_unmap(sqlite3_file *f, int delete)
{
	(void)delete;
	((struct handle *)f)->mem->nregions = 0;
	return (SQLITE_OK);
}

static const sqlite3_io_methods methods = {
	.iVersion = 2, .xClose = f_close, .xRead = f_read, .xWrite = f_write,
	.xTruncate = f_truncate, .xSync = f_sync, .xFileSize = f_size,
	.xLock = f_lock, .xUnlock = f_lock, .xCheckReservedLock = f_reserved,
	.xFileControl = f_control, .xSectorSize = f_sector,
	.xDeviceCharacteristics = f_device, .xShmMap = f_shm_map,
	.xShmLock = f_shm_lock, .xShmBarrier = f_shm_barrier,
	.xShmUnmap = f_shm_unmap,
};

/* --- the system of files ------------------------------------------------- */

static int
v_open(sqlite3_vfs *v, const char *path, sqlite3_file *f, int flags,
    int *out_flags)
{
	struct handle *h = (struct handle *)f;
	static unsigned int temporary;
	char name[32];

	(void)v;
	memset(h, 0, sizeof(*h));
	if (path == NULL) {
		(void)snprintf(name, sizeof(name), "temporary %u",
		    temporary++);
		path = name;
	}
	h->mem = of_path(path);
	if (h->mem == NULL && !(flags & SQLITE_OPEN_CREATE))
		return (SQLITE_CANTOPEN);
	if (h->mem == NULL)
		h->mem = make(path);
	h->gone = (flags & SQLITE_OPEN_DELETEONCLOSE) != 0;
	h->base.pMethods = &methods;
	if (out_flags != NULL)
		*out_flags = flags;
	return (SQLITE_OK);
}

static int
v_delete(sqlite3_vfs *v, const char *path, int sync)
{
	struct mem *m = of_path(path);

	(void)v;
	(void)sync;
	if (m == NULL)
		return (SQLITE_IOERR_DELETE_NOENT);
	m->path[0] = '\0';
	return (SQLITE_OK);
}

/* An empty journal is none. */
static int
v_access(sqlite3_vfs *v, const char *path, int flags, int *is)
{
	const struct mem *m = of_path(path);

	(void)v;
	*is = m != NULL && (flags != SQLITE_ACCESS_EXISTS ||
	    m->bytes.len > 0);
	return (SQLITE_OK);
}

static int
v_path(sqlite3_vfs *v, const char *path, int n, char *out)
{
	(void)v;
	(void)snprintf(out, (size_t)n, "%s", path);
	return (SQLITE_OK);
}

/* The same ones in each run. */
static int
v_random(sqlite3_vfs *v, int n, char *out)
{
	(void)v;
	memset(out, 42, (size_t)n);
	return (n);
}

static int
v_sleep(sqlite3_vfs *v, int us)
{
	(void)v;
	return (us);
}

static int
v_time(sqlite3_vfs *v, double *days)
{
	(void)v;
	*days = 2460000.5;
	return (SQLITE_OK);
}

static int
v_error(sqlite3_vfs *v, int n, char *out)
{
	(void)v;
	(void)n;
	(void)out;
	return (0);
}

static sqlite3_vfs in_memory = {
	.iVersion = 1, .szOsFile = sizeof(struct handle), .mxPathname = 127,
	.zName = "fuzz", .xOpen = v_open, .xDelete = v_delete,
	.xAccess = v_access, .xFullPathname = v_path,
	.xRandomness = v_random, .xSleep = v_sleep, .xCurrentTime = v_time,
	.xGetLastError = v_error,
};

void
fuzz_db(void)
{
	static const sqlite3_mem_methods memory = { db_malloc, db_free,
	    db_realloc, db_size, db_roundup, db_init, db_shutdown, NULL };
	static bool done;
	size_t i;

	if (!done && (sqlite3_config(SQLITE_CONFIG_MALLOC, &memory) !=
	    SQLITE_OK ||
	    sqlite3_config(SQLITE_CONFIG_SINGLETHREAD) != SQLITE_OK ||
	    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0) != SQLITE_OK ||
	    sqlite3_config(SQLITE_CONFIG_LOOKASIDE, 0, 0) != SQLITE_OK ||
	    sqlite3_vfs_register(&in_memory, 1) != SQLITE_OK))
		fuzz_check(!"SQLite can be set up");
	done = true;
	for (i = 0; i < FILES; i++)
		files[i].path[0] = '\0';
}

struct buf *
fuzz_db_file(const char *path)
{
	struct mem *m = of_path(path);

	return (m == NULL ? &make(path)->bytes : &m->bytes);
}

#ifdef FUZZ_LIBFUZZER
#pragma clang attribute pop
#endif
