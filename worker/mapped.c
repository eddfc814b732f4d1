/* See mapped.h. */
#include <sys/mman.h>

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "worker/mapped.h"

int
mapped_create(const char *path, uint64_t size, int *fd, struct err *err)
{
	if (path == NULL)
		*fd = memfd_create("wallaroo", MFD_CLOEXEC);
	else
		*fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (*fd == -1)
		return (err_sys(err, ERR_STORAGE, "cannot create %s",
		    path == NULL ? "memory file" : path));
	if (mapped_allocate(*fd, path == NULL ? "memory file" : path, 0, size,
	    err) == -1) {
		close(*fd);
		if (path != NULL)
			unlink(path);
		return (-1);
	}
	return (0);
}

int
mapped_allocate(int fd, const char *what, uint64_t off, uint64_t len,
    struct err *err)
{
	int r;

	do
		r = posix_fallocate(fd, (off_t)off, (off_t)len);
	while (r == EINTR);
	if (r != 0) {
		errno = r;
		return (err_sys(err, ERR_STORAGE,
		    "cannot allocate %llu bytes in %s",
		    (unsigned long long)len, what));
	}
	return (0);
}

void *
mapped_at(void *addr, int fd, const char *what, uint64_t off, size_t len,
    struct err *err)
{
	void *p;

	p = mmap(addr, len, PROT_READ | PROT_WRITE,
	    MAP_SHARED | (addr != NULL ? MAP_FIXED : 0), fd, (off_t)off);
	if (p == MAP_FAILED) {
		(void)err_sys(err, ERR_SYSTEM, "cannot map %zu bytes of %s",
		    len, what);
		return (NULL);
	}
	(void)madvise(p, len, MADV_DONTFORK);
	return (p);
}
