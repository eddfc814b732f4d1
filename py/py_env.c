/*
 * Which files Python starts from: the standard library beside libpython, the
 * packages of the environment that the configuration names, and the
 * directory of the wallaroo package.  Nothing is run to find out.
 */
#include "py/py_host.h"

#include <dirent.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/mem.h"

#ifndef PKGDATADIR
#define PKGDATADIR	"/usr/local/share/wallaroo"
#endif

#define ENV_TEXT2(x)	#x
#define ENV_TEXT(x)	ENV_TEXT2(x)
#define ENV_MINOR	ENV_TEXT(PY_MAJOR_VERSION) "."		\
			ENV_TEXT(PY_MINOR_VERSION)

struct env_version {
	int	major;			/* 0: not known */
	int	minor;
};

static bool
env_is_ours(struct env_version v)
{
	return (v.major == PY_MAJOR_VERSION && v.minor == PY_MINOR_VERSION);
}

/* Numbers at the start of s: "3.11", "3.11.2.final.0". */
static struct env_version
env_parse(const char *s)
{
	struct env_version v = { 0, 0 };

	if (sscanf(s, "%3d.%3d", &v.major, &v.minor) != 2)
		v.major = 0;
	return (v);
}

/* dir/tail exists and is a regular file. */
static bool
env_has(const char *dir, const char *tail)
{
	struct stat st;
	char *path;
	bool yes;

	path = xasprintf("%s/%s", dir, tail);
	yes = stat(path, &st) == 0 && S_ISREG(st.st_mode);
	free(path);
	return (yes);
}

static bool
env_has_library(const char *dir)
{
	return (env_has(dir, "lib/python" ENV_MINOR "/os.py") ||
	    env_has(dir, "lib64/python" ENV_MINOR "/os.py"));
}

/* Cut the last component of a path; false when nothing would be left. */
static bool
env_up(char *path)
{
	char *slash = strrchr(path, '/');

	if (slash == NULL || path[1] == '\0')
		return (false);
	slash[slash == path] = '\0';
	return (true);
}

/*
 * The prefix whose library belongs to libpython; owned; NULL: unknown.
 * Python within our own executable says nothing about where that is: then it
 * is where the interpreter was that configure found.
 */
static char *
env_home(void)
{
	Dl_info info, own;
	void *inside;
	char *path;

	/*
	 * An address that surely lies in libpython: not that of a symbol,
	 * which the linker may have copied into the executable.
	 */
	memcpy(&inside, &PyBaseObject_Type.tp_dealloc, sizeof(inside));
	if (dladdr(inside, &info) == 0 || info.dli_fname == NULL)
		path = NULL;
	else if (dladdr((void *)(uintptr_t)py_env_find, &own) != 0 &&
	    own.dli_fbase == info.dli_fbase)
		path = realpath(WALLAROO_PYTHON_PREFIX, NULL);
	else
		path = realpath(info.dli_fname, NULL);
	while (path != NULL && !env_has_library(path))
		if (!env_up(path)) {
			free(path);
			path = NULL;
		}
	return (path);
}

/* The version of the first library in prefix that is not ours. */
static struct env_version
env_library_version(const char *prefix)
{
	struct env_version v = { 0, 0 };
	struct dirent *d;
	char *path;
	DIR *dir;

	if (env_has_library(prefix))
		return (env_parse(ENV_MINOR));
	path = xasprintf("%s/lib", prefix);
	dir = opendir(path);
	free(path);
	if (dir == NULL)
		return (v);
	while (v.major == 0 && (d = readdir(dir)) != NULL)
		if (strncmp(d->d_name, "python", 6) == 0)
			v = env_parse(d->d_name + 6);
	(void)closedir(dir);
	return (v);
}

/* What pyvenv.cfg in dir says; major 0 when it says nothing. */
static struct env_version
env_venv_version(const char *dir)
{
	struct env_version v = { 0, 0 };
	char *path, *p, line[512];
	FILE *f;

	path = xasprintf("%s/pyvenv.cfg", dir);
	f = fopen(path, "re");
	free(path);
	if (f == NULL)
		return (v);
	while (v.major == 0 && fgets(line, sizeof(line), f) != NULL) {
		p = strchr(line, '=');
		if (p != NULL && strncmp(line, "version", 7) == 0)
			v = env_parse(p + 1);
	}
	(void)fclose(f);
	return (v);
}

/* The interpreter that `python` means: itself, or in a directory's bin. */
static char *
env_executable(const char *python, struct err *err)
{
	static const char *const names[] = { "bin/python" ENV_MINOR,
	    "bin/python3", "bin/python" };
	struct stat st;
	char *path;

	if (stat(python, &st) == -1) {
		(void)err_sys(err, ERR_CONFIG, "python = \"%s\"", python);
		return (NULL);
	}
	if (!S_ISDIR(st.st_mode)) {
		if (access(python, X_OK) == 0)
			return (xstrdup(python));
		(void)err_sys(err, ERR_CONFIG, "python = \"%s\"", python);
		return (NULL);
	}
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		path = xasprintf("%s/%s", python, names[i]);
		if (access(path, X_OK) == 0)
			return (path);
		free(path);
	}
	(void)err_set(err, ERR_CONFIG, "python = \"%s\": neither an "
	    "interpreter nor the directory of an environment (it has no "
	    "bin/python3)", python);
	return (NULL);
}

static int
env_refuse(const char *python, struct env_version v, struct err *err)
{
	if (v.major == 0)
		return (err_set(err, ERR_CONFIG, "python = \"%s\": cannot "
		    "tell its version (a wrapper script?); name the "
		    "interpreter itself, or the directory of a virtual "
		    "environment", python));
	return (err_set(err, ERR_CONFIG, "python = \"%s\": that is Python "
	    "%d.%d, but workers run Python " ENV_MINOR "; name an "
	    "environment of Python " ENV_MINOR ", or build with "
	    "--with-python=%d.%d", python, v.major, v.minor, v.major,
	    v.minor));
}

/*
 * An interpreter outside of any venv: its name or its library tells the
 * version, and its prefix is where its packages are.
 */
static int
env_plain(struct py_env *env, const char *python, struct err *err)
{
	struct env_version v = { 0, 0 };
	char *path, *base;
	int r = 0;

	path = realpath(env->executable, NULL);
	if (path == NULL)
		return (err_sys(err, ERR_CONFIG, "python = \"%s\"", python));
	base = strrchr(path, '/') + 1;
	if (strncmp(base, "python", 6) == 0)
		v = env_parse(base + 6);
	if (!env_up(path) || !env_up(path))	/* prefix/bin/python */
		path[0] = '\0';
	if (v.major == 0)
		v = env_library_version(path);
	if (!env_is_ours(v))
		r = env_refuse(python, v, err);
	else if (!env_has_library(path))
		r = env_refuse(python, (struct env_version){ 0, 0 }, err);
	else if (env->home == NULL || strcmp(path, env->home) != 0) {
		env->prefix = path;
		path = NULL;
	}
	free(path);
	return (r);
}

int
py_env_find(struct py_env *env, const char *python, struct err *err)
{
	struct env_version v;
	char *dir;
	int r;

	env->home = env_home();
	env->executable = env->prefix = NULL;
	if (python == NULL || python[0] == '\0') {
		/* For sys.executable, with which user code starts children. */
		if (env->home != NULL && env_has(env->home,
		    "bin/python" ENV_MINOR))
			env->executable = xasprintf("%s/bin/python" ENV_MINOR,
			    env->home);
		return (0);
	}
	env->executable = env_executable(python, err);
	if (env->executable == NULL) {
		py_env_fini(env);
		return (-1);
	}
	dir = xstrdup(env->executable);
	if (!env_up(dir) || !env_up(dir) || !env_has(dir, "pyvenv.cfg"))
		r = env_plain(env, python, err);
	else {
		v = env_venv_version(dir);
		if (v.major == 0)
			v = env_library_version(dir);
		r = env_is_ours(v) ? 0 : env_refuse(python, v, err);
	}
	free(dir);
	if (r == -1)
		py_env_fini(env);
	return (r);
}

void
py_env_fini(struct py_env *env)
{
	free(env->home);
	free(env->executable);
	free(env->prefix);
	env->home = env->executable = env->prefix = NULL;
}

char *
py_env_package(struct err *err)
{
	const char *set = getenv("WALLAROO_PYTHON_PACKAGE");
	char *dir, *exe;

	if (set != NULL && set[0] != '\0') {
		dir = realpath(set, NULL);
		if (dir != NULL && env_has(dir, "wallaroo/__init__.py"))
			return (dir);
		free(dir);
		(void)err_set(err, ERR_CONFIG, "WALLAROO_PYTHON_PACKAGE = %s: "
		    "no wallaroo/__init__.py in it", set);
		return (NULL);
	}
	exe = realpath("/proc/self/exe", NULL);
	if (exe != NULL && env_up(exe)) {
		dir = xasprintf("%s/py", exe);
		if (env_has(dir, "wallaroo/__init__.py")) {
			free(exe);
			return (dir);
		}
		free(dir);
	}
	free(exe);
	if (env_has(PKGDATADIR "/python", "wallaroo/__init__.py"))
		return (xstrdup(PKGDATADIR "/python"));
	(void)err_set(err, ERR_CONFIG, "the Python package wallaroo is not "
	    "installed in " PKGDATADIR "/python");
	return (NULL);
}
