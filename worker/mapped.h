/*
 * Files that are memory: created at full size (a sparse mapping on a full
 * file system dies of SIGBUS), never inherited by children of user code.
 *
 * Each begins with a page of its owner's; the word at MAPPED_RETIRED in it
 * says that syncing the file has failed once.  The kernel may have marked
 * pages clean that never reached the disk, so such a file is not synced
 * again: it is copied to a new one.
 */
#ifndef WORKER_MAPPED_H
#define WORKER_MAPPED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define MAPPED_RETIRED	4088	/* file offset of a u64 */

/* path NULL: anonymous (memfd).  Fails if the file exists. */
int	mapped_create(const char *path, uint64_t size, int *fd, struct err *);
/* Make bytes [off, off+len) of the file exist; ENOSPC is ERR_STORAGE. */
int	mapped_allocate(int fd, const char *what, uint64_t off, uint64_t len,
	    struct err *);
/* addr non-NULL: exactly there. */
void   *mapped_at(void *addr, int fd, const char *what, uint64_t off,
	    size_t len, struct err *);
void	mapped_unmap(void *addr, size_t len);

/* --- files on a disk ----------------------------------------------------- */

/* The file's bytes survive a power loss; a failure retires it. */
int	mapped_sync(int fd, const char *path, struct err *);
/* The directory entry of path does. */
int	mapped_sync_entry(const char *path, struct err *);
/* Zeros at [off, off+len). */
int	mapped_zero(int fd, const char *path, uint64_t off, uint64_t len,
	    struct err *);
/* If path was retired: put a copy of its bytes in its place, synced.  1: it
 * was, 0: it was not. */
int	mapped_renew(const char *path, struct err *);

/* --- SIGBUS: a page of a mapped file cannot be had ----------------------- */

/* Log the file and exit with 111, through `say` (async-signal-safe) first.
 * Faults elsewhere go to the handler of before. */
void	mapped_guard(void (*say)(const char *text, size_t len));

#endif
