/*
 * Files and mappings.  All files lie in one real memory file, so that a
 * journal's ring can be mapped twice in a row as the worker wants it; the
 * views are made once and used again by later seeds.
 */
#include <sys/vfs.h>

#define SIM_KERNEL
#include "tests/sim/plan.h"
#include "tests/sim/sim.h"
#include "tests/sim/sim_sys.h"

#define FIRST_INO	1000
#define HEAD	4096			/* a journal's, before its ring */

struct inode inodes[INODES];
static int pool_fd = -1;
static uint8_t *pool;
static uint8_t *disk;			/* what is on it, by slot */
static uint64_t next_ino;
#define MADE		4096	/* of which it is known where they are */
static uint16_t slot_of[MADE];

static int
no(int error)
{
	errno = error;
	return (-1);
}

static void
make_pool(void)
{
	unsigned int i;

	pool_fd = memfd_create("sim", 0);
	if (pool_fd == -1 || ftruncate(pool_fd, (off_t)(INODES *
	    INODE_MAX)) == -1 || (pool = mmap(NULL, INODES * INODE_MAX,
	    PROT_READ | PROT_WRITE, MAP_SHARED, pool_fd, 0)) == MAP_FAILED ||
	    (disk = mmap(NULL, INODES * INODE_MAX, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) ==
	    MAP_FAILED) {
		perror("sim: memory for files");
		exit(2);
	}
	for (i = 0; i < INODES; i++) {
		inodes[i].slot = i;
		inodes[i].base = pool + i * INODE_MAX;
		inodes[i].disk = disk + i * INODE_MAX;
	}
}

struct inode *
inode_find(const char *path)
{
	unsigned int i;

	for (i = 0; i < INODES; i++)
		if (inodes[i].used && strcmp(inodes[i].path, path) == 0)
			return (&inodes[i]);
	return (NULL);
}

/* One that had a ring before is best for a journal: its view is there. */
static struct inode *
free_slot(const char *path)
{
	bool ring = strstr(path, ".journal") != NULL;
	struct inode *found = NULL;
	unsigned int i;

	for (i = 0; i < INODES; i++) {
		if (inodes[i].used)
			continue;
		if ((inodes[i].ring != NULL) == ring)
			return (&inodes[i]);
		if (found == NULL)
			found = &inodes[i];
	}
	return (found);
}

/* Any of those that were made, in the same way wherever they are. */
struct inode *
inode_any(void)
{
	uint64_t n = rng_below(&plan.sched, next_ino - FIRST_INO + 1);
	struct inode *i = &inodes[slot_of[n % MADE]];

	return (i->used && i->ino == FIRST_INO + n ? i : NULL);
}

struct inode *
inode_new(const char *path)
{
	struct inode *i = free_slot(path);

	if (i == NULL || strlen(path) >= sizeof(i->path)) {
		fail("the simulated disk has no room for %s", path);
		return (NULL);
	}
	memset(i->base, 0, i->dirty_to);
	(void)snprintf(i->path, sizeof(i->path), "%s", path);
	i->used = true;
	i->refs = 0;
	slot_of[(next_ino - FIRST_INO) % MADE] = (uint16_t)i->slot;
	i->ino = next_ino++;
	i->size = i->dirty_to = 0;
	i->locked_by = 0;
	disk_new(i);
	return (i);
}

/* Has nobody any use for it?  A power loss may bring a name back. */
void
inode_settle(struct inode *i)
{
	if (i->refs == 0 && i->path[0] == '\0' && i->disk_path[0] == '\0')
		i->used = false;
}

void
inode_unref(struct inode *i)
{
	i->refs--;
	inode_settle(i);
}

/* A process that closes any descriptor of a file loses its lock. */
void
inode_close(struct inode *i, struct proc *p)
{
	if (i->locked_by == p->pid)
		i->locked_by = 0;
}

static int
grow(struct inode *i, uint64_t size)
{
	if (size > INODE_MAX)
		return (no(EFBIG));
	if (size > i->size)
		i->size = size;
	if (size > i->dirty_to)
		i->dirty_to = size;
	return (0);
}

void
inode_write(struct inode *i, const void *p, size_t n, uint64_t off)
{
	if (grow(i, off + n) == -1) {
		fail("the simulated file %s is too large", i->path);
		return;
	}
	memcpy(i->base + off, p, n);
	disk_written(i, off, off + n);
}

/* What is cut off is gone; zeros come when it grows again. */
static void
cut(struct inode *i, uint64_t size)
{
	if (size < i->size) {
		memset(i->base + size, 0, i->size - size);
		disk_written(i, size, i->size);
	}
	i->size = size;
}

void
maps_close(struct proc *p)
{
	unsigned int i;

	for (i = 0; i < INODES; i++)
		if (p->maps[i] != 0) {
			p->maps[i] = 0;
			inode_unref(&inodes[i]);
		}
}

void
files_reset(void)
{
	unsigned int i;

	if (pool == NULL)
		make_pool();
	for (i = 0; i < INODES; i++)
		inodes[i].used = false;
	next_ino = FIRST_INO;
}

/* A file system in memory after a power loss; nobody has it open. */
void
files_lost(const char *below)
{
	unsigned int i;

	for (i = 0; i < INODES; i++)
		if (inodes[i].used && strncmp(inodes[i].path, below,
		    strlen(below)) == 0)
			inodes[i].used = false;
}

/* --- calls --------------------------------------------------------------- */

/* All that it is good for is to be synced. */
static int
open_directory(const char *path)
{
	struct file *f = file_new(FILE_DIR);

	(void)snprintf(f->dir, sizeof(f->dir), "%s", path);
	return (fd_install(current, f, 0));
}

int
sim_open(const char *path, int flags, ...)
{
	struct inode *i;
	struct file *f;
	int fd;

	point(PT_open, false);
	if (strcmp(path, "/dev/null") == 0)
		return (fd_install(current, file_new(FILE_NULL), 0));
	if (flags & O_DIRECTORY)
		return (open_directory(path));
	if ((i = inode_find(path)) == NULL) {
		if (!(flags & O_CREAT))
			return (no(ENOENT));
		if (plan_no_space())
			return (no(ENOSPC));
		if ((i = inode_new(path)) == NULL)
			return (no(ENOSPC));
	} else if (flags & O_EXCL)
		return (no(EEXIST));
	if (flags & O_TRUNC)
		cut(i, 0);
	f = file_new(FILE_REG);
	f->inode = i;
	f->append = (flags & O_APPEND) != 0;
	i->refs++;
	fd = fd_install(current, f, 0);
	trace("open %s fd=%d size=%llu", path, fd,
	    (unsigned long long)i->size);
	point(PT_open, true);
	return (fd);
}

int
sim_memfd_create(const char *name, unsigned int flags)
{
	struct inode *i = inode_new("");
	struct file *f;

	(void)name;
	(void)flags;
	if (i == NULL)
		return (no(ENOSPC));
	f = file_new(FILE_REG);
	f->inode = i;
	i->refs++;
	return (fd_install(current, f, 0));
}

int
sim_unlink(const char *path)
{
	struct inode *i = inode_find(path);

	point(PT_unlink, false);
	if (i == NULL)
		return (no(ENOENT));
	i->path[0] = '\0';
	inode_settle(i);
	point(PT_unlink, true);
	return (0);
}

int
sim_rename(const char *from, const char *to)
{
	struct inode *i = inode_find(from), *old = inode_find(to);

	point(PT_unlink, false);
	if (i == NULL)
		return (no(ENOENT));
	if (old != NULL) {
		old->path[0] = '\0';
		inode_settle(old);
	}
	(void)snprintf(i->path, sizeof(i->path), "%s", to);
	point(PT_unlink, true);
	return (0);
}

static int
fill_stat(const struct inode *i, struct stat *st)
{
	memset(st, 0, sizeof(*st));
	if (i == NULL)
		return (no(ENOENT));
	st->st_size = (off_t)i->size;
	st->st_mode = S_IFREG | 0600;
	st->st_dev = 1;
	st->st_ino = i->ino;
	return (0);
}

int
sim_fstat(int fd, struct stat *st)
{
	struct file *f = fd_get(fd);

	return (f == NULL ? -1 : fill_stat(f->inode, st));
}

int
sim_stat(const char *path, struct stat *st)
{
	return (fill_stat(inode_find(path), st));
}

ssize_t
reg_read(struct file *f, void *to, size_t n, uint64_t off)
{
	struct inode *i = f->inode;

	if (off >= i->size)
		return (0);
	if (n > i->size - off)
		n = i->size - off;
	n = some_of(n);
	memcpy(to, i->base + off, n);
	return ((ssize_t)n);
}

ssize_t
sim_pread(int fd, void *to, size_t n, off_t off)
{
	struct file *f = fd_get(fd);
	ssize_t r;

	point(PT_pread, false);
	if (f == NULL)
		return (-1);
	/* Headers of our own files are read whole or not at all. */
	if (f->inode->path[0] != '\0' && strstr(f->inode->path, "/input") !=
	    NULL && sometimes(plan.eintr))
		return (no(EINTR));
	r = reg_read(f, to, n, (uint64_t)off);
	if (r >= 0 && (size_t)r < n && strstr(f->inode->path, "/input") ==
	    NULL && (uint64_t)off + n <= f->inode->size) {
		memcpy(to, f->inode->base + off, n);
		r = (ssize_t)n;
	}
	point(PT_pread, true);
	return (r);
}

ssize_t
sim_pwrite(int fd, const void *p, size_t n, off_t off)
{
	struct file *f = fd_get(fd);

	point(PT_pwrite, false);
	if (f == NULL)
		return (-1);
	inode_write(f->inode, p, n, (uint64_t)off);
	point(PT_pwrite, true);
	return ((ssize_t)n);
}

ssize_t
sim_writev(int fd, const struct iovec *iov, int n)
{
	struct file *f = fd_get(fd);
	size_t want = 0, left;
	uint64_t at;
	int i;

	point(PT_writev, false);
	if (f == NULL)
		return (-1);
	if (sometimes(plan.eintr))
		return (no(EINTR));
	if (plan_no_space())
		return (no(rng_one_in(&plan.sched, 2) ? ENOSPC : EIO));
	for (i = 0; i < n; i++)
		want += iov[i].iov_len;
	left = want = some_of(want);
	at = f->append ? f->inode->size : f->off;
	for (i = 0; i < n && left > 0; i++) {
		size_t k = iov[i].iov_len < left ? iov[i].iov_len : left;

		inode_write(f->inode, iov[i].iov_base, k, at);
		at += k;
		left -= k;
	}
	f->off = at;
	plan_file_written(f->inode);
	trace("writev %s n=%zu size=%llu", f->inode->path, want,
	    (unsigned long long)f->inode->size);
	point(PT_writev, true);
	return ((ssize_t)want);
}

ssize_t
sim_write(int fd, const void *p, size_t n)
{
	struct iovec iov = { (void *)(uintptr_t)p, n };

	return (sim_writev(fd, &iov, 1));
}

off_t
sim_lseek(int fd, off_t off, int whence)
{
	struct file *f = fd_get(fd);

	if (f == NULL)
		return (-1);
	f->off = (whence == SEEK_END ? f->inode->size : 0) + (uint64_t)off;
	return ((off_t)f->off);
}

ssize_t
sim_splice(int in, off64_t *in_off, int out, off64_t *out_off, size_t n,
    unsigned int flags)
{
	(void)in;
	(void)in_off;
	(void)out;
	(void)out_off;
	(void)n;
	(void)flags;
	return (no(EINVAL));		/* no pipelines with stdin here */
}

int
sim_posix_fallocate(int fd, off_t off, off_t len)
{
	struct file *f = fd_get(fd);

	point(PT_fallocate, false);
	if (f == NULL)
		return (EBADF);
	if (sometimes(plan.eintr))
		return (EINTR);
	if (plan_no_space()) {
		trace("fallocate ENOSPC");
		return (ENOSPC);
	}
	if (grow(f->inode, (uint64_t)(off + len)) == -1)
		return (ENOSPC);
	point(PT_fallocate, true);
	return (0);
}

/* Only holes are punched. */
int
sim_fallocate(int fd, int mode, off_t off, off_t len)
{
	struct file *f = fd_get(fd);
	uint64_t from = (uint64_t)off, to = (uint64_t)(off + len);

	(void)mode;
	if (f == NULL)
		return (-1);
	if (to > f->inode->size)
		to = f->inode->size;
	if (from < to)
		memset(f->inode->base + from, 0, to - from);
	return (0);
}

int
sim_ftruncate(int fd, off_t size)
{
	struct file *f;

	point(PT_ftruncate, false);
	if ((f = fd_get(fd)) == NULL)
		return (-1);
	cut(f->inode, (uint64_t)size);
	plan_file_cut(f->inode);
	trace("ftruncate %s size=%llu", f->inode->path,
	    (unsigned long long)size);
	point(PT_ftruncate, true);
	return (0);
}

int
sim_fsync(int fd)
{
	struct file *f;

	point(PT_fsync, false);
	if ((f = fd_get(fd)) == NULL)
		return (-1);
	if (f->kind == FILE_DIR)
		disk_sync_names(f->dir);
	else if (sometimes(plan.sync_errors)) {
		disk_sync_failed(f->inode);
		return (no(EIO));
	} else
		disk_sync(f->inode);
	point(PT_fsync, true);
	return (0);
}

int
sim_fdatasync(int fd)
{
	return (sim_fsync(fd));
}

int
sim_msync(void *p, size_t n, int flags)
{
	(void)p;
	(void)n;
	(void)flags;
	return (0);
}

DIR *
sim_opendir(const char *path)
{
	(void)path;
	errno = ENOENT;			/* asked for a changed pipeline only */
	return (NULL);
}

struct dirent *
sim_readdir(DIR *d)
{
	(void)d;
	return (NULL);
}

int
sim_closedir(DIR *d)
{
	(void)d;
	return (0);
}

/* --- mappings ------------------------------------------------------------ */

/* The view of a journal's ring: its bytes twice in a row. */
static void *
ring_of(struct inode *i, uint64_t size)
{
	off_t at = (off_t)(i->slot * INODE_MAX + HEAD);

	if (i->ring != NULL && i->ring_size == size)
		return (i->ring);
	if (i->ring != NULL)
		(void)munmap(i->ring, 2 * i->ring_size);
	i->ring_size = size;
	i->ring = mmap(NULL, 2 * size, PROT_NONE, MAP_PRIVATE |
	    MAP_ANONYMOUS, -1, 0);
	if (i->ring == MAP_FAILED || mmap(i->ring, size, PROT_READ |
	    PROT_WRITE, MAP_SHARED | MAP_FIXED, pool_fd, at) == MAP_FAILED ||
	    mmap(i->ring + size, size, PROT_READ | PROT_WRITE, MAP_SHARED |
	    MAP_FIXED, pool_fd, at) == MAP_FAILED) {
		perror("sim: mapping of a ring");
		exit(2);
	}
	return (i->ring);
}

/* Nobody else may work on this worker's journal. */
static void
check_owner(const struct inode *i)
{
	unsigned int k;

	if (strstr(i->path, ".journal") == NULL)
		return;
	for (k = 0; k < PROCS; k++)
		if (procs[k].life == PROC_LIVE && &procs[k] != current &&
		    procs[k].maps[i->slot] != 0)
			fail("two owners: processes %d and %d both have %s",
			    procs[k].pid, current->pid, i->path);
}

void *
sim_mmap(void *addr, size_t n, int prot, int flags, int fd, off_t off)
{
	struct inode *i;
	struct file *f;
	uint8_t *at;

	(void)prot;
	point(PT_mmap, false);
	if (flags & MAP_ANONYMOUS) {
		/* Only for the ring of the journal whose head is mapped. */
		assert(current->mapped != -1);
		return (ring_of(&inodes[current->mapped], n / 2));
	}
	if ((f = fd_get(fd)) == NULL || f->inode == NULL)
		return (MAP_FAILED);
	i = f->inode;
	at = i->base + off;
	if (addr != NULL) {
		at = addr;
		assert(off == HEAD && n == i->ring_size &&
		    (at == i->ring || at == i->ring + n));
	}
	check_owner(i);
	if (current->maps[i->slot]++ == 0)
		i->refs++;
	current->mapped = (int)i->slot;
	point(PT_mmap, true);
	return (at);
}

static struct inode *
inode_at(const uint8_t *p)
{
	unsigned int k;

	if (p >= pool && p < pool + INODES * INODE_MAX)
		return (&inodes[(size_t)(p - pool) / INODE_MAX]);
	for (k = 0; k < INODES; k++)
		if (inodes[k].ring == p)
			return (&inodes[k]);
	return (NULL);
}

int
sim_munmap(void *p, size_t n)
{
	struct inode *i = inode_at(p);
	uint16_t k;

	(void)n;
	if (i == NULL || current->maps[i->slot] == 0)
		return (no(EINVAL));
	k = i->ring == p ? 2 : 1;
	if (k > current->maps[i->slot])
		k = current->maps[i->slot];
	current->maps[i->slot] = (uint16_t)(current->maps[i->slot] - k);
	if (current->maps[i->slot] == 0)
		inode_unref(i);
	return (0);
}

int
sim_madvise(void *p, size_t n, int advice)
{
	(void)p;
	(void)n;
	(void)advice;
	return (0);
}
