/* Makes calls on files fail with EIO while a file names them: the path of that file is in FAILING_CALLS. It is removed by a
   call that it names with " once". */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fails(const char *call) {
    const char *path = getenv("FAILING_CALLS");
    if (!path) return 0;
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    char text[64] = {0};
    long size = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    size_t length = strlen(call);
    if (size <= 0 || strncmp(text, call, length)) return 0;
    if (!strcmp(text + length, " once")) syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    else if (text[length]) return 0;
    errno = EIO;
    return 1;
}

static int is_file(int fd) {
    struct stat status;
    return fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
}

int fsync(int fd) {
    if (!is_file(fd) && fails("fsync of a directory")) return -1;
    return fails("fsync") ? -1 : (int)syscall(SYS_fsync, fd);
}

int rename(const char *from, const char *to) {
    return fails("rename") ? -1 : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int ftruncate64(int fd, off64_t size) {
    return fails("ftruncate") ? -1 : (int)syscall(SYS_ftruncate, fd, size);
}

/* As on a file system that keeps no modes. */
int chmod(const char *path, mode_t mode) {
    return fails("chmod") ? 0 : (int)syscall(SYS_fchmodat, AT_FDCWD, path, mode);
}

ssize_t read(int fd, void *buffer, size_t size) {
    return is_file(fd) && fails("read") ? -1 : syscall(SYS_read, fd, buffer, size);
}

ssize_t write(int fd, const void *buffer, size_t size) {
    return is_file(fd) && fails("write") ? -1 : syscall(SYS_write, fd, buffer, size);
}

int open64(const char *path, int flags, ...) {
    mode_t mode = 0;
    if (flags & (O_CREAT | O_TMPFILE)) {
        va_list rest;
        va_start(rest, flags);
        mode = va_arg(rest, mode_t);
        va_end(rest);
    }
    return flags & O_CREAT && fails("create") ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_LARGEFILE, mode);
}
