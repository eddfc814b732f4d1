/*
 * Forced in front of every production source that the simulation compiles:
 * what these ask of the system, and every block of memory, comes from the
 * simulated kernel.  System headers come first, so that only uses are
 * renamed, never declarations.
 */
#ifndef TESTS_SIM_SIM_SYS_H
#define TESTS_SIM_SIM_SYS_H

#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* memory */
void	*sim_malloc(size_t);
void	*sim_calloc(size_t, size_t);
void	*sim_realloc(void *, size_t);
void	*sim_reallocarray(void *, size_t, size_t);
void	 sim_free(void *);
char	*sim_strdup(const char *);
char	*sim_strndup(const char *, size_t);
int	 sim_vasprintf(char **, const char *, va_list)
	    __attribute__((format(printf, 2, 0)));

/* files */
int	 sim_open(const char *path, int flags, ...);
int	 sim_close(int);
ssize_t	 sim_read(int, void *, size_t);
ssize_t	 sim_write(int, const void *, size_t);
ssize_t	 sim_pread(int, void *, size_t, off_t);
ssize_t	 sim_pwrite(int, const void *, size_t, off_t);
ssize_t	 sim_writev(int, const struct iovec *, int);
off_t	 sim_lseek(int, off_t, int);
ssize_t	 sim_splice(int, off64_t *, int, off64_t *, size_t, unsigned int);
int	 sim_fcntl(int, int, ...);
int	 sim_fstat(int, struct stat *);
int	 sim_stat(const char *, struct stat *);
int	 sim_unlink(const char *);
int	 sim_rename(const char *, const char *);
int	 sim_fallocate(int, int, off_t, off_t);
int	 sim_posix_fallocate(int, off_t, off_t);
int	 sim_ftruncate(int, off_t);
int	 sim_fsync(int);
int	 sim_fdatasync(int);
int	 sim_msync(void *, size_t, int);
int	 sim_memfd_create(const char *, unsigned int);
void	*sim_mmap(void *, size_t, int, int, int, off_t);
int	 sim_munmap(void *, size_t);
int	 sim_madvise(void *, size_t, int);
DIR	*sim_opendir(const char *);
struct dirent *sim_readdir(DIR *);
int	 sim_closedir(DIR *);
int	 sim_isatty(int);
int	 sim_fprintf(FILE *, const char *, ...)
	    __attribute__((format(printf, 2, 3)));

/* sockets */
int	 sim_socket(int, int, int);
int	 sim_socketpair(int, int, int, int *);
int	 sim_bind(int, const struct sockaddr *, socklen_t);
int	 sim_listen(int, int);
int	 sim_accept4(int, struct sockaddr *, socklen_t *, int);
int	 sim_connect(int, const struct sockaddr *, socklen_t);
int	 sim_shutdown(int, int);
ssize_t	 sim_send(int, const void *, size_t, int);
ssize_t	 sim_recv(int, void *, size_t, int);
ssize_t	 sim_sendmsg(int, const struct msghdr *, int);
ssize_t	 sim_recvmsg(int, struct msghdr *, int);
int	 sim_getsockopt(int, int, int, void *, socklen_t *);
int	 sim_setsockopt(int, int, int, const void *, socklen_t);
int	 sim_getsockname(int, struct sockaddr *, socklen_t *);
int	 sim_getpeername(int, struct sockaddr *, socklen_t *);
int	 sim_ioctl(int, unsigned long, ...);
int	 sim_dup3(int, int, int);
int	 sim_poll(struct pollfd *, nfds_t, int);
int	 sim_getaddrinfo(const char *, const char *, const struct addrinfo *,
	    struct addrinfo **);
void	 sim_freeaddrinfo(struct addrinfo *);
int	 sim_getnameinfo(const struct sockaddr *, socklen_t, char *,
	    socklen_t, char *, socklen_t, int);

/* processes */
void	 sim_exit(int) __attribute__((noreturn));
void	 sim_abort(void) __attribute__((noreturn));
void	 sim_assert_fail(const char *, const char *, unsigned int,
	    const char *) __attribute__((noreturn));
int	 sim_usleep(useconds_t);
pid_t	 sim_getpid(void);
pid_t	 sim_getppid(void);
int	 sim_kill(pid_t, int);
int	 sim_prctl(int, ...);
char	*sim_getenv(const char *);
int	 sim_unsetenv(const char *);
int	 sim_getrlimit(int, struct rlimit *);
int	 sim_setrlimit(int, const struct rlimit *);
uid_t	 sim_geteuid(void);
int	 sim_access(const char *, int);
int	 sim_pthread_create(pthread_t *, const pthread_attr_t *,
	    void *(*)(void *), void *);
sighandler_t sim_signal(int, sighandler_t);

/* The kernel itself wants the real ones. */
#ifndef SIM_KERNEL
#define malloc		sim_malloc
#define calloc		sim_calloc
#define realloc		sim_realloc
#define reallocarray	sim_reallocarray
#define free		sim_free
#undef strdup
#define strdup		sim_strdup
#undef strndup
#define strndup		sim_strndup
#define vasprintf	sim_vasprintf

#define open		sim_open
#define close		sim_close
#define read		sim_read
#define write		sim_write
#define pread		sim_pread
#define pwrite		sim_pwrite
#define writev		sim_writev
#define lseek		sim_lseek
#define splice		sim_splice
#undef fcntl
#define fcntl		sim_fcntl
#define fstat(fd, st)	sim_fstat(fd, st)
#define stat(path, st)	sim_stat(path, st)
#define unlink		sim_unlink
#define rename		sim_rename
#define fallocate	sim_fallocate
#define posix_fallocate	sim_posix_fallocate
#define ftruncate	sim_ftruncate
#define fsync		sim_fsync
#define fdatasync	sim_fdatasync
#define msync		sim_msync
#define memfd_create	sim_memfd_create
#define mmap		sim_mmap
#define munmap		sim_munmap
#define madvise		sim_madvise
#define opendir		sim_opendir
#define readdir		sim_readdir
#define closedir	sim_closedir
#define isatty		sim_isatty
#define fprintf		sim_fprintf

#define socket		sim_socket
#define socketpair	sim_socketpair
#define bind		sim_bind
#define listen		sim_listen
#define accept4		sim_accept4
#define connect		sim_connect
#define shutdown	sim_shutdown
#define send		sim_send
#define recv		sim_recv
#define sendmsg		sim_sendmsg
#define recvmsg		sim_recvmsg
#define getsockopt	sim_getsockopt
#define setsockopt	sim_setsockopt
#define getsockname	sim_getsockname
#define getpeername	sim_getpeername
#define ioctl		sim_ioctl
#define dup3		sim_dup3
#define poll		sim_poll
#define getaddrinfo	sim_getaddrinfo
#define freeaddrinfo	sim_freeaddrinfo
#define getnameinfo	sim_getnameinfo

#define exit		sim_exit
#define _exit		sim_exit
#define abort		sim_abort
#define __assert_fail	sim_assert_fail
#define usleep		sim_usleep
#define getpid		sim_getpid
#define getppid		sim_getppid
#define kill		sim_kill
#define prctl		sim_prctl
#define getenv		sim_getenv
#define unsetenv	sim_unsetenv
#define getrlimit	sim_getrlimit
#define setrlimit	sim_setrlimit
#define geteuid		sim_geteuid
#define access		sim_access
#define pthread_create	sim_pthread_create
#define signal		sim_signal
#endif

#endif
