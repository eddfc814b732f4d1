/*
 * Files that are memory: created at full size (a sparse mapping on a full
 * file system dies of SIGBUS), never inherited by children of user code.
 */
#ifndef WORKER_MAPPED_H
#define WORKER_MAPPED_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

/* path NULL: anonymous (memfd).  Fails if the file exists. */
int	mapped_create(const char *path, uint64_t size, int *fd, struct err *);
/* Make bytes [off, off+len) of the file exist; ENOSPC is ERR_STORAGE. */
int	mapped_allocate(int fd, const char *what, uint64_t off, uint64_t len,
	    struct err *);
/* addr non-NULL: exactly there. */
void   *mapped_at(void *addr, int fd, const char *what, uint64_t off,
	    size_t len, struct err *);

#endif
