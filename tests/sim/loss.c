/*
 * A loss beyond what the durability promises: the mapped files are gone, a
 * file is an older copy, or a disk has not kept what it confirmed.  The start
 * must be refused; with --accept-loss it goes on from what is left.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/plan.h"
#include "tests/sim/sim.h"

#define JOURNAL_HEAD	4096	/* before its ring */
#define ENTRY		64	/* more than an entry's head */
#define OLDER		2	/* commits that an older copy lacks */

#define FILES		40	/* of one worker, at most */

static struct {
	bool		 copied;
	uint64_t	 commits;	/* when it was */
	size_t		 n;
	struct {
		char	 path[sizeof(((struct inode *)NULL)->path)];
		uint8_t	*bytes;
		uint64_t size;
	}		 file[FILES];
} copy;

static struct inode *
journal_of(uint32_t worker)
{
	char path[32];

	(void)snprintf(path, sizeof(path), "/run/worker-%u.journal", worker);
	return (inode_find(path));
}

void
loss_reset(void)
{
	while (copy.n > 0)
		free(copy.file[--copy.n].bytes);
	memset(&copy, 0, sizeof(copy));
}

static void
copy_file(const struct inode *i)
{
	if (copy.n == FILES)
		return;
	memcpy(copy.file[copy.n].path, i->path, sizeof(i->path));
	copy.file[copy.n].size = i->size;
	copy.file[copy.n].bytes = malloc(i->size + 1);
	memcpy(copy.file[copy.n++].bytes, i->base, i->size);
}

static void
take_copy(void)
{
	const struct inode *i;
	char path[32];

	copy.copied = true;
	copy.commits = store_sim_commits(plan.loss_worker);
	if (plan.loss != LOSS_OLD_JOURNAL)
		store_sim_keep(plan.loss_worker);
	(void)snprintf(path, sizeof(path), "/run/worker-%u.%s",
	    plan.loss_worker, plan.loss == LOSS_OLD_JOURNAL ? "journal" : "");
	for (i = inodes; plan.loss != LOSS_OLD_DATABASE && i < inodes +
	    INODES; i++)
		if (i->used && strncmp(i->path, path, strlen(path)) == 0)
			copy_file(i);
}

/* Has something been lost when it happens now? */
bool
loss_ready(void)
{
	bool any = false;
	uint32_t i;

	for (i = 0; i < plan.workers; i++)
		any |= store_sim_exists(i) && !store_sim_clean(i);
	if (plan.loss == LOSS_ALL)
		return (any);
	/* There is nothing to be known of a worker that was never open. */
	if (!store_sim_exists(plan.loss_worker) ||
	    store_sim_clean(plan.loss_worker) ||
	    journal_of(plan.loss_worker) == NULL)
		return (false);
	if (plan.loss != LOSS_OLD_DATABASE && plan.loss != LOSS_OLD_JOURNAL &&
	    plan.loss != LOSS_OLD_WORKER)
		return (true);
	if (!copy.copied)
		take_copy();
	return (store_sim_commits(plan.loss_worker) >= copy.commits + OLDER);
}

/* What it had confirmed behind the checkpoint. */
static void
lose_tail(void)
{
	struct inode *i = journal_of(plan.loss_worker);
	uint64_t at;

	if (i == NULL)
		return;
	at = JOURNAL_HEAD + store_sim_position(plan.loss_worker) % (i->size -
	    JOURNAL_HEAD);
	memset(i->base + at, 0, i->size - at < ENTRY ? i->size - at : ENTRY);
}

static void
put_back(void)
{
	struct inode *i;
	size_t k;

	for (k = 0; k < copy.n; k++) {
		i = inode_find(copy.file[k].path);
		if (i == NULL || i->size < copy.file[k].size)
			continue;
		memcpy(i->base, copy.file[k].bytes, copy.file[k].size);
		memset(i->base + copy.file[k].size, 0, i->size -
		    copy.file[k].size);
		i->size = copy.file[k].size;
	}
}

/* Nothing runs, and the disk is what an honest one is after a power loss. */
void
loss_happens(void)
{
	char path[32];

	trace("AND MORE IS LOST: kind %d, worker %u", (int)plan.loss,
	    plan.loss_worker);
	switch (plan.loss) {
	case LOSS_ALL:
		files_lost("/run/");
		break;
	case LOSS_FILES:
		(void)snprintf(path, sizeof(path), "/run/worker-%u.",
		    plan.loss_worker);
		files_lost(path);
		break;
	case LOSS_JOURNAL:
		(void)snprintf(path, sizeof(path), "/run/worker-%u.journal",
		    plan.loss_worker);
		files_lost(path);
		break;
	case LOSS_OLD_DATABASE:
		store_sim_put_back(plan.loss_worker);
		break;
	case LOSS_OLD_JOURNAL:
		put_back();
		break;
	case LOSS_OLD_WORKER:
		store_sim_put_back(plan.loss_worker);
		put_back();
		break;
	case LOSS_TAIL:
		lose_tail();
		break;
	case LOSSES:
		break;
	}
}

/* What nobody else knows of cannot be missed. */
bool
loss_may_be_unseen(void)
{
	return (plan.loss == LOSS_TAIL || plan.loss == LOSS_OLD_WORKER);
}
