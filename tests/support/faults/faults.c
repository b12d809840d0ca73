/* An LD_PRELOAD shim that logs and fails what a process does to the files under one directory. 64-bit Linux, glibc.
 *
 *   FAULTS_DIR      the directory (absolute); everything else passes through untouched
 *   FAULTS_LOG      where every change is written down, data included (optional); faults/log.py reads it
 *   FAULTS_CONTROL  a file of rules, read again whenever it changes (optional): one a line, the first that matches acts:
 *                     CALLS FROM-TO ACTION [GLOB]        write,pwrite 3-3 EIO      * 10- ENOSPC      fsync 1- SLEEP:500 *.warc.gz*
 *                   CALLS: names below, or *; FROM-TO: which of the calls that match CALLS and GLOB, counted from 1 since
 *                   the rules were read; ACTION: an errno, SHORT (write half), SLEEP:MILLISECONDS, KILL (SIGKILL), TRACE
 *                   (nothing). Each rule that came to act is named once in FAULTS_CONTROL.seen.
 *                   recv and send are what is read from and written to internet sockets, by whatever call; no * means them,
 *                   and their GLOB is matched against ADDRESS:PORT of the peer.
 *
 * The law: a record of a change is written after the change and before the caller hears of it; that of a sync in two parts,
 * before and after. So whatever the process knew to be done stands before whatever it did next. Blind spots: stdio's own
 * writes (RocksDB's LOG), io_uring, raw syscalls, and stores through a shared mapping (the log names that as MMAP).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FDS_MAX 65536
#define RULES_MAX 32
#define EXPORT __attribute__((visibility("default")))
#define ALIAS(of) __attribute__((visibility("default"), alias(#of)))
#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

enum kind { OPEN = 1, CREATE, WRITE, TRUNCATE, SYNC_BEGIN, SYNC_END, SYNCFS_BEGIN, SYNCFS_END, RENAME, LINK, UNLINK, MKDIR, RMDIR, NOTE, MMAP, FAULT };

struct record { /* faults/log.py: RECORD */
    uint32_t magic, kind, pid, error;
    uint64_t inode, sync; /* sync: pairs the two parts */
    int64_t offset, length;
    uint32_t path, other, data; /* bytes of each, following */
    uint32_t flags; /* 1: opened for synchronous writes, 2: it is a directory */
};

struct rule { char calls[128], action[32], glob[256]; long from, to, count; int seen; };

static char dir[PATH_MAX];
static size_t dir_bytes;
static const char *control;
static int log_fd = -1;
static pid_t owner; /* a vfork child shares our memory and must not touch it */
static uint64_t sync_number;
static struct { uint64_t inode; uint8_t flags; } tracked[FDS_MAX]; /* inode 0: not ours */
static pthread_mutex_t names = PTHREAD_MUTEX_INITIALIZER; /* a change of a name and its record are one step */
static pthread_mutex_t logging = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t ruling = PTHREAD_MUTEX_INITIALIZER;
static struct rule rules[RULES_MAX];
static int rule_count;
static struct timespec rules_at;
static ino_t rules_inode;

static int real_open(const char *path, int flags, mode_t mode) { REAL(int, "open64", const char *, int, ...); return real(path, flags, mode); }
static int real_close(int fd) { REAL(int, "close", int); return real(fd); }
static ssize_t real_writev(int fd, const struct iovec *parts, int count) { REAL(ssize_t, "writev", int, const struct iovec *, int); return real(fd, parts, count); }

static void before_fork(void) { pthread_mutex_lock(&names); pthread_mutex_lock(&ruling); pthread_mutex_lock(&logging); }
static void after_fork(void) { pthread_mutex_unlock(&logging); pthread_mutex_unlock(&ruling); pthread_mutex_unlock(&names); }
static void in_child(void) { owner = getpid(); after_fork(); }

__attribute__((constructor)) static void begin(void) {
    const char *under = getenv("FAULTS_DIR"), *log = getenv("FAULTS_LOG");
    owner = getpid();
    if (!under || !realpath(under, dir)) return;
    dir_bytes = strlen(dir);
    control = getenv("FAULTS_CONTROL");
    if (log && *log) {
        int fd = real_open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        for (int high = FDS_MAX - 1; fd >= 0 && log_fd < 0 && high > 3; high /= 2) /* out of the way, below the limit */
            log_fd = fcntl(fd, F_DUPFD_CLOEXEC, high);
        if (log_fd < 0) { fputs("faults: cannot open FAULTS_LOG\n", stderr); abort(); }
        real_close(fd);
    }
    pthread_atfork(before_fork, after_fork, in_child);
}

/* -- the log ------------------------------------------------------------------------------------------------------- */

static void put(struct record record, const char *path, const char *other, const void *data, size_t bytes) {
    if (log_fd < 0) return;
    int kept = errno;
    record.magic = 0x544c4146;
    record.pid = (uint32_t)owner;
    record.path = path ? strlen(path) : 0;
    record.other = other ? strlen(other) : 0;
    record.data = bytes;
    struct iovec parts[4] = {{&record, sizeof record}, {(char *)path, record.path}, {(char *)other, record.other}, {(void *)data, bytes}};
    ssize_t wanted = sizeof record + record.path + record.other + bytes;
    pthread_mutex_lock(&logging);
    if (real_writev(log_fd, parts, 4) != wanted) { fputs("faults: cannot write FAULTS_LOG\n", stderr); abort(); }
    pthread_mutex_unlock(&logging);
    errno = kept;
}

/* For programs under test: a line of their own in the log ("this key was acknowledged"). */
EXPORT void faults_note(const char *text) { put((struct record){.kind = NOTE}, NULL, NULL, text, strlen(text)); }

/* -- which files are ours ------------------------------------------------------------------------------------------ */

/* Absolute, without . and .., in out[PATH_MAX]; whether it lies under the directory. */
static int ours(int at, const char *path, char *out) {
    char whole[2 * PATH_MAX + 2], link[64];
    if (!dir_bytes || !path || !*path || getpid() != owner) return 0;
    if (*path == '/') snprintf(whole, sizeof whole, "%s", path);
    else {
        ssize_t n;
        if (at == AT_FDCWD) n = getcwd(whole, PATH_MAX) ? (ssize_t)strlen(whole) : -1;
        else { snprintf(link, sizeof link, "/proc/self/fd/%d", at); n = readlink(link, whole, PATH_MAX); }
        if (n < 0) return 0;
        snprintf(whole + n, sizeof whole - n, "/%s", path);
    }
    char *end = out, *state, *step;
    for (step = strtok_r(whole, "/", &state); step; step = strtok_r(NULL, "/", &state)) {
        if (!strcmp(step, ".")) continue;
        if (!strcmp(step, "..")) { while (end > out && *--end != '/') ; continue; }
        if (end + strlen(step) + 2 > out + PATH_MAX) return 0;
        *end++ = '/';
        end = stpcpy(end, step);
    }
    *end = 0;
    return !strncmp(out, dir, dir_bytes) && (out[dir_bytes] == '/' || !out[dir_bytes]);
}

/* Its inode if the descriptor is one of ours, else 0. A number that was closed behind our back and given anew is not. */
static uint64_t inode_of(int fd) {
    struct stat now;
    if (fd < 0 || fd >= FDS_MAX || !tracked[fd].inode || getpid() != owner) return 0;
    if (fstat(fd, &now) || now.st_ino != tracked[fd].inode) return tracked[fd].inode = 0;
    return now.st_ino;
}

static void forget(int fd) { if (fd >= 0 && fd < FDS_MAX && getpid() == owner) tracked[fd].inode = 0; }
static void same(int from, int to) { if (to >= 0 && to < FDS_MAX && from >= 0 && from < FDS_MAX && getpid() == owner) tracked[to] = tracked[from]; }

/* Its path now, in out[PATH_MAX]. */
static const char *path_of(int fd, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, out, PATH_MAX - 1);
    out[n > 0 ? n : 0] = 0;
    return out;
}

/* -- the rules ----------------------------------------------------------------------------------------------------- */

static void read_rules(void) {
    struct stat now;
    if (stat(control, &now)) { rule_count = 0; rules_inode = 0; return; }
    if (now.st_ino == rules_inode && !memcmp(&now.st_mtim, &rules_at, sizeof rules_at)) return;
    char text[8192], *state;
    int fd = real_open(control, O_RDONLY | O_CLOEXEC, 0);
    REAL(ssize_t, "read", int, void *, size_t);
    ssize_t n = fd < 0 ? 0 : real(fd, text, sizeof text - 1);
    if (fd >= 0) real_close(fd);
    text[n > 0 ? n : 0] = 0;
    rules_inode = now.st_ino, rules_at = now.st_mtim, rule_count = 0;
    for (char *line = strtok_r(text, "\n", &state); line && rule_count < RULES_MAX; line = strtok_r(NULL, "\n", &state)) {
        struct rule *rule = &rules[rule_count];
        char range[64];
        *rule = (struct rule){.to = LONG_MAX};
        if (sscanf(line, "%127s %63s %31s %255s", rule->calls, range, rule->action, rule->glob) < 3) continue;
        char *dash = strchr(range, '-');
        rule->from = atol(range);
        if (!dash) rule->to = rule->from; else if (dash[1]) rule->to = atol(dash + 1);
        rule_count++;
    }
}

static int names_call(const char *calls, const char *call) {
    if (!strcmp(calls, "*")) return strcmp(call, "recv") && strcmp(call, "send");
    size_t n = strlen(call);
    for (const char *at = calls; (at = strstr(at, call)); at += n)
        if ((at == calls || at[-1] == ',') && (!at[n] || at[n] == ',')) return 1;
    return 0;
}

static int errno_of(const char *name) {
    for (int number = 1; number < 134; number++) { const char *known = strerrorname_np(number); if (known && !strcmp(known, name)) return number; }
    fprintf(stderr, "faults: no such action: %s\n", name);
    abort();
}

/* What to do to this call: 0 nothing, > 0 fail with this errno, -1 write half of it. */
static int fault(const char *call, const char *path, int fd) {
    char of_fd[PATH_MAX], action[32] = "";
    if (!control) return 0;
    int kept = errno;
    pthread_mutex_lock(&ruling);
    read_rules();
    for (int i = 0; i < rule_count && !*action; i++) {
        struct rule *rule = &rules[i];
        if (!names_call(rule->calls, call)) continue;
        if (*rule->glob && !path) path = path_of(fd, of_fd);
        if (*rule->glob && fnmatch(rule->glob, path, 0)) continue;
        rule->count++;
        if (rule->count < rule->from || rule->count > rule->to) continue;
        strcpy(action, rule->action);
        if (!rule->seen++) {
            char seen[PATH_MAX + 8], line[512];
            snprintf(seen, sizeof seen, "%s.seen", control);
            int out = real_open(seen, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
            int n = snprintf(line, sizeof line, "%s %s %s\n", rule->calls, rule->action, call);
            real_writev(out, &(struct iovec){line, n}, 1);
            real_close(out);
        }
    }
    pthread_mutex_unlock(&ruling);
    errno = kept;
    if (!*action || !strcmp(action, "TRACE")) return 0;
    put((struct record){.kind = FAULT}, path, call, action, strlen(action));
    if (!strcmp(action, "KILL")) { kill(getpid(), SIGKILL); pause(); }
    if (!strcmp(action, "SHORT")) return -1;
    if (!strncmp(action, "SLEEP:", 6)) {
        long ms = atol(action + 6);
        nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
        return 0;
    }
    return errno_of(action);
}

#define FAIL_IF(call, path, fd) do { int fault_ = fault(call, path, fd); if (fault_ > 0) { errno = fault_; return -1; } } while (0)

/* The same for a socket of the internet: only errnos and SLEEP make sense. */
static int net_fault(const char *call, int fd) {
    struct sockaddr_storage peer;
    socklen_t bytes = sizeof peer;
    char address[INET6_ADDRSTRLEN], name[sizeof address + 8];
    if (!control || getpid() != owner) return 0;
    int kept = errno, failed = getpeername(fd, (struct sockaddr *)&peer, &bytes);
    errno = kept;
    if (failed || (peer.ss_family != AF_INET && peer.ss_family != AF_INET6)) return 0;
    struct sockaddr_in *v4 = (struct sockaddr_in *)&peer; /* the port is at the same place in both */
    void *number = peer.ss_family == AF_INET ? (void *)&v4->sin_addr : (void *)&((struct sockaddr_in6 *)&peer)->sin6_addr;
    inet_ntop(peer.ss_family, number, address, sizeof address);
    snprintf(name, sizeof name, "%s:%d", address, ntohs(v4->sin_port));
    int fault_ = fault(call, name, -1);
    return fault_ > 0 ? fault_ : 0;
}

#define NET_FAIL_IF(call, fd) do { int fault_ = net_fault(call, fd); if (fault_) { errno = fault_; return -1; } } while (0)

/* -- opening ------------------------------------------------------------------------------------------------------- */

static int opened(int fd, const char *path, int flags, int made) {
    struct stat now;
    if (fd < 0 || fstat(fd, &now)) return fd;
    struct record record = {.kind = made ? CREATE : OPEN, .inode = now.st_ino};
    record.flags = (flags & O_DSYNC ? 1 : 0) | (S_ISDIR(now.st_mode) ? 2 : 0);
    put(record, path, NULL, NULL, 0);
    if (!made && flags & O_TRUNC) put((struct record){.kind = TRUNCATE, .inode = now.st_ino}, path, NULL, NULL, 0);
    if (fd >= FDS_MAX) abort();
    tracked[fd].inode = now.st_ino;
    tracked[fd].flags = record.flags;
    return fd;
}

EXPORT int openat64(int at, const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    REAL(int, "openat64", int, const char *, int, ...);
    char whole[PATH_MAX];
    if (!ours(at, path, whole)) { int fd = real(at, path, flags, mode); forget(fd); return fd; }
    FAIL_IF(flags & O_CREAT ? "create" : "open", whole, -1);
    if (!(flags & O_CREAT)) return opened(real(at, path, flags, mode), whole, flags, 0);
    pthread_mutex_lock(&names);
    int fd, made;
    do { /* first as it is, then exclusively: so we know whether it was made */
        made = 0;
        fd = flags & O_EXCL ? (errno = ENOENT, -1) : real(at, path, flags & ~O_CREAT, mode);
        if (fd < 0 && errno == ENOENT) { made = 1; fd = real(at, path, flags | O_EXCL, mode); }
    } while (fd < 0 && errno == EEXIST && !(flags & O_EXCL));
    opened(fd, whole, flags, made);
    pthread_mutex_unlock(&names);
    return fd;
}
int ALIAS(openat64) openat(int at, const char *path, int flags, ...);

EXPORT int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return openat64(AT_FDCWD, path, flags, mode);
}
int ALIAS(open64) open(const char *path, int flags, ...);
EXPORT int creat64(const char *path, mode_t mode) { return open64(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int ALIAS(creat64) creat(const char *path, mode_t mode);
EXPORT int __open64_2(const char *path, int flags) { return open64(path, flags); }
int ALIAS(__open64_2) __open_2(const char *path, int flags);

EXPORT FILE *fopen64(const char *path, const char *mode) { /* what stdio writes is not seen, but the file is */
    REAL(FILE *, "fopen64", const char *, const char *);
    char whole[PATH_MAX];
    if (!ours(AT_FDCWD, path, whole)) return real(path, mode);
    int made = *mode != 'r' && access(path, F_OK);
    int fault_ = fault(made ? "create" : "open", whole, -1);
    if (fault_ > 0) { errno = fault_; return NULL; }
    pthread_mutex_lock(&names);
    FILE *file = real(path, mode);
    if (file) { opened(fileno(file), whole, *mode == 'w' ? O_TRUNC : 0, made); forget(fileno(file)); }
    pthread_mutex_unlock(&names);
    return file;
}
FILE *ALIAS(fopen64) fopen(const char *path, const char *mode);

EXPORT int close(int fd) {
    if (fd == log_fd && fd >= 0 && getpid() == owner) { errno = EBADF; return -1; }
    forget(fd);
    return real_close(fd);
}
EXPORT int fclose(FILE *file) { REAL(int, "fclose", FILE *); forget(fileno(file)); return real(file); }
EXPORT int dup(int fd) { REAL(int, "dup", int); int copy = real(fd); same(fd, copy); return copy; }
EXPORT int dup2(int fd, int to) { REAL(int, "dup2", int, int); int copy = real(fd, to); same(fd, copy); return copy; }
EXPORT int dup3(int fd, int to, int flags) { REAL(int, "dup3", int, int, int); int copy = real(fd, to, flags); same(fd, copy); return copy; }
EXPORT int fcntl64(int fd, int command, ...) {
    REAL(int, "fcntl64", int, int, ...);
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    int result = real(fd, command, argument);
    if (command == F_DUPFD || command == F_DUPFD_CLOEXEC) same(fd, result);
    return result;
}
int ALIAS(fcntl64) fcntl(int fd, int command, ...);

/* -- reading and writing ------------------------------------------------------------------------------------------- */

static ssize_t wrote(int fd, uint64_t inode, const struct iovec *parts, int count, off_t at, ssize_t n) {
    if (n <= 0) return n;
    int kept = errno;
    struct record record = {.kind = WRITE, .inode = inode, .length = n, .flags = tracked[fd].flags};
    record.offset = at >= 0 ? at : lseek(fd, 0, SEEK_CUR) - n;
    char *whole = count == 1 ? parts->iov_base : malloc(n);
    for (ssize_t i = 0, done = 0; count > 1 && done < n; done += parts[i++].iov_len)
        memcpy(whole + done, parts[i].iov_base, (ssize_t)parts[i].iov_len < n - done ? (ssize_t)parts[i].iov_len : n - done);
    put(record, NULL, NULL, whole, n);
    if (count > 1) free(whole);
    errno = kept;
    return n;
}

EXPORT ssize_t write(int fd, const void *data, size_t bytes) {
    REAL(ssize_t, "write", int, const void *, size_t);
    uint64_t inode = inode_of(fd);
    if (!inode) { NET_FAIL_IF("send", fd); return real(fd, data, bytes); }
    int fault_ = fault("write", NULL, fd);
    if (fault_ > 0) { errno = fault_; return -1; }
    return wrote(fd, inode, &(struct iovec){(void *)data, bytes}, 1, -1, real(fd, data, fault_ && bytes > 1 ? bytes / 2 : bytes));
}
EXPORT ssize_t pwrite64(int fd, const void *data, size_t bytes, off_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off_t);
    uint64_t inode = inode_of(fd);
    if (!inode) return real(fd, data, bytes, at);
    int fault_ = fault("pwrite", NULL, fd);
    if (fault_ > 0) { errno = fault_; return -1; }
    return wrote(fd, inode, &(struct iovec){(void *)data, bytes}, 1, at, real(fd, data, fault_ && bytes > 1 ? bytes / 2 : bytes, at));
}
ssize_t ALIAS(pwrite64) pwrite(int fd, const void *data, size_t bytes, off_t at);
EXPORT ssize_t writev(int fd, const struct iovec *parts, int count) {
    uint64_t inode = inode_of(fd);
    if (!inode) { NET_FAIL_IF("send", fd); return real_writev(fd, parts, count); }
    FAIL_IF("writev", NULL, fd);
    return wrote(fd, inode, parts, count, -1, real_writev(fd, parts, count));
}
EXPORT ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t at) {
    REAL(ssize_t, "pwritev64", int, const struct iovec *, int, off_t);
    uint64_t inode = inode_of(fd);
    if (!inode) return real(fd, parts, count, at);
    FAIL_IF("pwritev", NULL, fd);
    return wrote(fd, inode, parts, count, at, real(fd, parts, count, at));
}
ssize_t ALIAS(pwritev64) pwritev(int fd, const struct iovec *parts, int count, off_t at);
/* Refused, so that callers fall back on write: their data would have to be read back for the log. */
EXPORT ssize_t sendfile64(int out, int in, off_t *at, size_t bytes) {
    REAL(ssize_t, "sendfile64", int, int, off_t *, size_t);
    if (inode_of(out)) { errno = ENOTSOCK; return -1; }
    return real(out, in, at, bytes);
}
ssize_t ALIAS(sendfile64) sendfile(int out, int in, off_t *at, size_t bytes);
EXPORT ssize_t copy_file_range(int in, off_t *from, int out, off_t *to, size_t bytes, unsigned flags) {
    REAL(ssize_t, "copy_file_range", int, off_t *, int, off_t *, size_t, unsigned);
    if (inode_of(out)) { errno = ENOSYS; return -1; }
    return real(in, from, out, to, bytes, flags);
}

EXPORT ssize_t read(int fd, void *data, size_t bytes) {
    REAL(ssize_t, "read", int, void *, size_t);
    if (inode_of(fd)) FAIL_IF("read", NULL, fd);
    else NET_FAIL_IF("recv", fd);
    return real(fd, data, bytes);
}
EXPORT ssize_t recv(int fd, void *data, size_t bytes, int flags) {
    REAL(ssize_t, "recv", int, void *, size_t, int);
    NET_FAIL_IF("recv", fd);
    return real(fd, data, bytes, flags);
}
EXPORT ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
    REAL(ssize_t, "recvmsg", int, struct msghdr *, int);
    NET_FAIL_IF("recv", fd);
    return real(fd, message, flags);
}
EXPORT ssize_t send(int fd, const void *data, size_t bytes, int flags) {
    REAL(ssize_t, "send", int, const void *, size_t, int);
    NET_FAIL_IF("send", fd);
    return real(fd, data, bytes, flags);
}
EXPORT ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    REAL(ssize_t, "sendmsg", int, const struct msghdr *, int);
    NET_FAIL_IF("send", fd);
    return real(fd, message, flags);
}
EXPORT ssize_t pread64(int fd, void *data, size_t bytes, off_t at) {
    REAL(ssize_t, "pread64", int, void *, size_t, off_t);
    if (inode_of(fd)) FAIL_IF("pread", NULL, fd);
    return real(fd, data, bytes, at);
}
ssize_t ALIAS(pread64) pread(int fd, void *data, size_t bytes, off_t at);
EXPORT void *mmap64(void *where, size_t bytes, int protection, int flags, int fd, off_t at) {
    REAL(void *, "mmap64", void *, size_t, int, int, int, off_t);
    uint64_t inode = flags & MAP_ANONYMOUS ? 0 : inode_of(fd);
    if (inode && flags & MAP_SHARED && protection & PROT_WRITE) {
        char path[PATH_MAX];
        put((struct record){.kind = MMAP, .inode = inode}, path_of(fd, path), NULL, NULL, 0);
    }
    return real(where, bytes, protection, flags, fd, at);
}
void *ALIAS(mmap64) mmap(void *where, size_t bytes, int protection, int flags, int fd, off_t at);

/* -- lengths ------------------------------------------------------------------------------------------------------- */

static int truncated(int result, uint64_t inode, const char *path, off_t length) {
    if (!result) put((struct record){.kind = TRUNCATE, .inode = inode, .offset = length}, path, NULL, NULL, 0);
    return result;
}

EXPORT int ftruncate64(int fd, off_t length) {
    REAL(int, "ftruncate64", int, off_t);
    uint64_t inode = inode_of(fd);
    if (!inode) return real(fd, length);
    FAIL_IF("ftruncate", NULL, fd);
    return truncated(real(fd, length), inode, NULL, length);
}
int ALIAS(ftruncate64) ftruncate(int fd, off_t length);
EXPORT int truncate64(const char *path, off_t length) {
    REAL(int, "truncate64", const char *, off_t);
    char whole[PATH_MAX];
    struct stat now;
    if (!ours(AT_FDCWD, path, whole) || stat(path, &now)) return real(path, length);
    FAIL_IF("truncate", whole, -1);
    return truncated(real(path, length), now.st_ino, whole, length);
}
int ALIAS(truncate64) truncate(const char *path, off_t length);
EXPORT int fallocate64(int fd, int mode, off_t at, off_t bytes) {
    REAL(int, "fallocate64", int, int, off_t, off_t);
    uint64_t inode = inode_of(fd);
    if (!inode) return real(fd, mode, at, bytes);
    FAIL_IF("fallocate", NULL, fd);
    struct stat now;
    int result = real(fd, mode, at, bytes);
    return result || mode || fstat(fd, &now) ? result : truncated(0, inode, NULL, now.st_size); /* it may have grown */
}
int ALIAS(fallocate64) fallocate(int fd, int mode, off_t at, off_t bytes);
EXPORT int posix_fallocate64(int fd, off_t at, off_t bytes) { return inode_of(fd) ? (fallocate64(fd, 0, at, bytes) ? errno : 0) : fallocate64(fd, 0, at, bytes) ? errno : 0; }
int ALIAS(posix_fallocate64) posix_fallocate(int fd, off_t at, off_t bytes);

/* -- syncs --------------------------------------------------------------------------------------------------------- */

static int synced(int fd, const char *call, enum kind kind, int (*real)(int)) {
    uint64_t inode = inode_of(fd);
    if (!inode) return real(fd);
    struct record record = {.kind = kind, .inode = inode, .sync = __atomic_add_fetch(&sync_number, 1, __ATOMIC_RELAXED)};
    put(record, NULL, NULL, NULL, 0);
    int fault_ = fault(call, NULL, fd), result = fault_ > 0 ? -1 : real(fd);
    record.error = fault_ > 0 ? (uint32_t)fault_ : result ? (uint32_t)errno : 0;
    record.kind = kind + 1;
    put(record, NULL, NULL, NULL, 0);
    errno = record.error ? (int)record.error : errno;
    return result;
}
EXPORT int fsync(int fd) { REAL(int, "fsync", int); return synced(fd, "fsync", SYNC_BEGIN, real); }
EXPORT int fdatasync(int fd) { REAL(int, "fdatasync", int); return synced(fd, "fdatasync", SYNC_BEGIN, real); }
EXPORT int syncfs(int fd) { REAL(int, "syncfs", int); return synced(fd, "syncfs", SYNCFS_BEGIN, real); }
EXPORT int sync_file_range(int fd, off_t at, off_t bytes, unsigned flags) { /* promises nothing about a power cut: not logged */
    REAL(int, "sync_file_range", int, off_t, off_t, unsigned);
    if (inode_of(fd)) FAIL_IF("sync_file_range", NULL, fd);
    return real(fd, at, bytes, flags);
}

/* -- names --------------------------------------------------------------------------------------------------------- */

/* A change of names, done and recorded as one step. */
#define NAMED(call, kind_, at, path, at2, path2, done) do { \
        char whole[PATH_MAX], other[PATH_MAX] = ""; \
        const char *second = path2; \
        if (!ours(at, path, whole) || (second && !ours(at2, second, other))) return done; \
        FAIL_IF(call, whole, -1); \
        pthread_mutex_lock(&names); \
        int result_ = done; \
        struct stat now_ = {0}; \
        if (!result_ && kind_ == MKDIR) stat(whole, &now_); \
        if (!result_) put((struct record){.kind = kind_, .inode = now_.st_ino}, whole, second ? other : NULL, NULL, 0); \
        pthread_mutex_unlock(&names); \
        return result_; \
    } while (0)

EXPORT int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    NAMED("rename", RENAME, AT_FDCWD, from, AT_FDCWD, to, real(from, to));
}
EXPORT int renameat(int at, const char *from, int at2, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    NAMED("rename", RENAME, at, from, at2, to, real(at, from, at2, to));
}
EXPORT int link(const char *from, const char *to) {
    REAL(int, "link", const char *, const char *);
    NAMED("link", LINK, AT_FDCWD, from, AT_FDCWD, to, real(from, to));
}
EXPORT int linkat(int at, const char *from, int at2, const char *to, int flags) {
    REAL(int, "linkat", int, const char *, int, const char *, int);
    NAMED("link", LINK, at, from, at2, to, real(at, from, at2, to, flags));
}
EXPORT int unlink(const char *path) { REAL(int, "unlink", const char *); NAMED("unlink", UNLINK, AT_FDCWD, path, 0, NULL, real(path)); }
EXPORT int rmdir(const char *path) { REAL(int, "rmdir", const char *); NAMED("rmdir", RMDIR, AT_FDCWD, path, 0, NULL, real(path)); }
EXPORT int unlinkat(int at, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    if (flags & AT_REMOVEDIR) NAMED("rmdir", RMDIR, at, path, 0, NULL, real(at, path, flags));
    NAMED("unlink", UNLINK, at, path, 0, NULL, real(at, path, flags));
}
EXPORT int remove(const char *path) { struct stat now; return !lstat(path, &now) && S_ISDIR(now.st_mode) ? rmdir(path) : unlink(path); }
EXPORT int mkdir(const char *path, mode_t mode) { REAL(int, "mkdir", const char *, mode_t); NAMED("mkdir", MKDIR, AT_FDCWD, path, 0, NULL, real(path, mode)); }
EXPORT int mkdirat(int at, const char *path, mode_t mode) { REAL(int, "mkdirat", int, const char *, mode_t); NAMED("mkdir", MKDIR, at, path, 0, NULL, real(at, path, mode)); }
