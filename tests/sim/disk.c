/*
 * What a power loss leaves of the files: each as it was last synced, with any
 * subset of the pages that changed since, some of them torn between sectors;
 * its old size or the new one; and of names that were made, removed or changed
 * since their directory was synced, the old state or the new one.
 */
#include <string.h>

#include "tests/sim/plan.h"
#include "tests/sim/sim.h"

#define PAGE	4096
#define SECTOR	512
#define PAGES	(INODE_MAX / PAGE)

bool disks;

/*
 * After a failed sync the kernel may call a page clean that never reached the
 * disk: then it is not written again until somebody changes it.
 */
static uint64_t stale[INODES][PAGES];	/* digest of such a page, 0: none */

static uint64_t
page_digest(const uint8_t *p)
{
	uint64_t d = 1, v;
	size_t i;

	for (i = 0; i < PAGE; i += sizeof(v)) {
		memcpy(&v, p + i, sizeof(v));
		d = (d ^ v) * UINT64_C(0x9fb21c651e98df25);
		d ^= d >> 29;
	}
	return (d | 1);
}

/* Of both sides the larger: behind its end each has zeros. */
static uint64_t
extent(const struct inode *i)
{
	return (i->size > i->disk_size ? i->size : i->disk_size);
}

static void
sync_page(struct inode *i, uint64_t at)
{
	uint8_t *to = i->disk + at;
	const uint8_t *from = i->base + at;

	if (memcmp(to, from, PAGE) == 0)
		return;
	if (i->stale && stale[i->slot][at / PAGE] != 0) {
		if (stale[i->slot][at / PAGE] == page_digest(from))
			return;
		stale[i->slot][at / PAGE] = 0;
	}
	memcpy(to, from, PAGE);
}

void
disk_new(struct inode *i)
{
	if (i->disk_to > 0)
		memset(i->disk, 0, i->disk_to);
	i->disk_path[0] = '\0';
	i->disk_size = i->disk_to = 0;
	i->stale = false;
}

/* What is in the file now is there after a power loss. */
void
disk_sync(struct inode *i)
{
	uint64_t at, end = extent(i);

	if (!disks)
		return;
	for (at = 0; at < end; at += PAGE)
		sync_page(i, at);
	i->disk_size = i->size;
	if (end > i->disk_to)
		i->disk_to = (end + PAGE - 1) / PAGE * PAGE;
}

/* It could not be synced; of each page nobody knows. */
void
disk_sync_failed(struct inode *i)
{
	uint64_t at, end = extent(i);

	if (!disks)
		return;
	if (!i->stale)
		memset(stale[i->slot], 0, sizeof(stale[i->slot]));
	i->stale = true;
	for (at = 0; at < end; at += PAGE)
		if (memcmp(i->disk + at, i->base + at, PAGE) != 0 &&
		    rng_one_in(&plan.sched, 2))
			stale[i->slot][at / PAGE] = page_digest(i->base + at);
}

/* By a call: these pages are written again, whatever is in them. */
void
disk_written(struct inode *i, uint64_t from, uint64_t to)
{
	uint64_t at;

	for (at = from / PAGE; i->stale && at * PAGE < to; at++)
		stale[i->slot][at] = 0;
}

/* Files in the order in which they were made: where they are in memory depends
 * on earlier seeds.  Returns how many. */
static size_t
in_order(struct inode **list)
{
	struct inode *i;
	size_t n = 0, k;

	for (i = inodes; i < inodes + INODES; i++) {
		if (!i->used)
			continue;
		for (k = n++; k > 0 && list[k - 1]->ino > i->ino; k--)
			list[k] = list[k - 1];
		list[k] = i;
	}
	return (n);
}

/* The kernel writes a page when it likes. */
void
disk_write_back(void)
{
	struct inode *i = inode_any();
	uint64_t pages;

	if (i == NULL || i->path[0] == '\0' || i->size == 0)
		return;
	pages = (i->size + PAGE - 1) / PAGE;
	sync_page(i, rng_below(&plan.sched, pages) * PAGE);
	if (pages * PAGE > i->disk_to)
		i->disk_to = pages * PAGE;
}

/* --- names --------------------------------------------------------------- */

static bool
is_in(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	return (strncmp(path, dir, n) == 0 && path[n] == '/' &&
	    strchr(path + n + 1, '/') == NULL);
}

/* Names in this directory are as they are now. */
void
disk_sync_names(const char *dir)
{
	struct inode *i;

	for (i = inodes; disks && i < inodes + INODES; i++) {
		if (!i->used)
			continue;
		if (is_in(i->disk_path, dir))
			i->disk_path[0] = '\0';
		if (is_in(i->path, dir))
			memcpy(i->disk_path, i->path, sizeof(i->path));
		inode_settle(i);
	}
}

/* Its old name comes back, or whoever has that now keeps it. */
static void
lose_removal(struct inode *i)
{
	struct inode *now = inode_find(i->disk_path);

	if (rng_one_in(&plan.sched, 2)) {
		if (now != NULL)
			now->path[0] = '\0';
		memcpy(i->path, i->disk_path, sizeof(i->path));
		return;
	}
	i->disk_path[0] = '\0';
	if (now != NULL)
		memcpy(now->disk_path, now->path, sizeof(now->path));
}

static void
lose_names(struct inode **list, size_t n)
{
	struct inode *i;
	size_t k;

	for (k = 0; k < n; k++)
		if (list[k]->disk_path[0] != '\0' &&
		    strcmp(list[k]->path, list[k]->disk_path) != 0)
			lose_removal(list[k]);
	for (k = 0; k < n; k++) {
		i = list[k];
		if (strcmp(i->path, i->disk_path) != 0 &&
		    rng_one_in(&plan.sched, 2))
			i->path[0] = '\0';
		memcpy(i->disk_path, i->path, sizeof(i->path));
		i->used = i->path[0] != '\0';
	}
}

/* --- contents ------------------------------------------------------------ */

/* How much of what was not synced is there. */
struct luck { uint64_t page, torn; };

static void
lose_page(struct inode *i, uint64_t at, const struct luck *luck)
{
	uint8_t *now = i->base + at, *then = i->disk + at;
	size_t s;

	if (memcmp(now, then, PAGE) == 0)
		return;
	if (rng_below(&plan.sched, 100) < luck->torn) {
		for (s = 0; s < PAGE; s += SECTOR)
			if (rng_one_in(&plan.sched, 2))
				memcpy(now + s, then + s, SECTOR);
	} else if (rng_below(&plan.sched, 100) >= luck->page)
		memcpy(now, then, PAGE);
}

static void
lose_content(struct inode *i, const struct luck *luck)
{
	uint64_t end = extent(i), at, size = i->size;

	for (at = 0; at < end; at += PAGE)
		lose_page(i, at, luck);
	switch (rng_below(&plan.sched, 3)) {
	case 0:
		size = i->disk_size;
		break;
	case 1:
		if (i->disk_size < size)
			size = rng_range(&plan.sched, i->disk_size, size);
	}
	if (size < end)
		memset(i->base + size, 0, end - size);
	i->size = size;
	if (size > i->dirty_to)
		i->dirty_to = size;
	i->stale = false;
	disk_sync(i);
}

/* Nobody has anything open any more. */
void
disk_lose(void)
{
	static const uint64_t pages[] = { 0, 0, 20, 50, 100 };
	struct luck luck = { pages[rng_below(&plan.sched, 5)],
	    rng_one_in(&plan.sched, 2) ? 20 : 0 };
	struct inode *list[INODES];
	size_t n = in_order(list), k;

	lose_names(list, n);
	for (k = 0; k < n; k++)
		if (list[k]->used) {
			list[k]->locked_by = 0;
			lose_content(list[k], &luck);
		}
}
