/* mount.nfs for a kernel that has no NFS client: the same command line, served by libnfs and FUSE.
 *
 *     mount.nfs SERVER:/PATH FOLDER [-o ro,vers=3,port=N,mountport=N,...]
 *
 * It returns once the folder is mounted, or says why not and returns 32 as mount(8) does. Requests
 * carry the caller's user and group (AUTH_SYS), and the kernel checks permissions as well. Several
 * connections serve requests in parallel. The default is NFSv3, because it is stateless: if the
 * server restarts, requests wait until it answers, as with a "hard" mount.
 */
#define FUSE_USE_VERSION 35
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <nfsc/libnfs.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <unistd.h>

enum { CONNECTIONS = 8, LARGEST_REQUEST = 1 << 20, PATIENCE_SECONDS = 8, MOUNT_FAILED = 32 };

struct connection {
	struct nfs_context *nfs;
	pthread_mutex_t lock;
};

/* libnfs ties a handle to the connection that opened it. Like any NFS client, we send all requests
 * of a handle as the user who opened it, because the kernel's read-ahead has no calling user. */
struct file {
	struct connection *connection;
	struct nfsfh *handle;
	int uid, gid;
};

static struct connection connections[CONNECTIONS];
static const char *source; /* SERVER:/PATH, for messages */

static void act_as(struct connection *c, int uid, int gid)
{
	nfs_set_uid(c->nfs, uid);
	nfs_set_gid(c->nfs, gid);
}

/* A connection for one request of the calling user: a free one, else the next in turn. */
static struct connection *acquire(void)
{
	static atomic_uint turn;
	unsigned first = atomic_fetch_add(&turn, 1);
	struct connection *c = NULL;

	for (unsigned i = 0; i < CONNECTIONS && !c; i++) {
		struct connection *candidate = &connections[(first + i) % CONNECTIONS];
		if (pthread_mutex_trylock(&candidate->lock) == 0)
			c = candidate;
	}
	if (!c) {
		c = &connections[first % CONNECTIONS];
		pthread_mutex_lock(&c->lock);
	}
	act_as(c, fuse_get_context()->uid, fuse_get_context()->gid);
	return c;
}

static int release(struct connection *c, int result)
{
	pthread_mutex_unlock(&c->lock);
	return result;
}

static struct file *file_of(struct fuse_file_info *info)
{
	return (struct file *)(uintptr_t)info->fh;
}

static struct connection *acquire_of(struct file *f)
{
	pthread_mutex_lock(&f->connection->lock);
	act_as(f->connection, f->uid, f->gid);
	return f->connection;
}

/* Make one libnfs call on a connection, `c`, and return its result. */
#define ON_ANY(call)                                        \
	struct connection *c = acquire();                   \
	return release(c, call)

/* The same for an open file, `f`. */
#define ON_FILE(call)                                       \
	struct file *f = file_of(info);                     \
	struct connection *c = acquire_of(f);               \
	return release(c, call)

static void copy_stat(struct stat *to, const struct nfs_stat_64 *from)
{
	*to = (struct stat){
		.st_ino = from->nfs_ino,
		.st_mode = from->nfs_mode,
		.st_nlink = from->nfs_nlink,
		.st_uid = from->nfs_uid,
		.st_gid = from->nfs_gid,
		.st_rdev = from->nfs_rdev,
		.st_size = from->nfs_size,
		.st_blksize = from->nfs_blksize,
		.st_blocks = from->nfs_blocks,
		.st_atim = {from->nfs_atime, from->nfs_atime_nsec},
		.st_mtim = {from->nfs_mtime, from->nfs_mtime_nsec},
		.st_ctim = {from->nfs_ctime, from->nfs_ctime_nsec},
	};
}

static int get_attributes(const char *path, struct stat *st, struct fuse_file_info *info)
{
	struct connection *c = info ? acquire_of(file_of(info)) : acquire();
	struct nfs_stat_64 found;
	int result = info ? nfs_fstat64(c->nfs, file_of(info)->handle, &found)
			  : nfs_lstat64(c->nfs, path, &found);

	if (result == 0)
		copy_stat(st, &found);
	return release(c, result);
}

static int open_file(const char *path, int flags, mode_t mode, struct fuse_file_info *info)
{
	struct file *f = malloc(sizeof *f);
	int result;

	if (!f)
		return -ENOMEM;
	f->connection = acquire();
	f->uid = fuse_get_context()->uid;
	f->gid = fuse_get_context()->gid;
	/* We drop O_APPEND, because the kernel gives an offset with every write, also with appends. */
	result = nfs_open2(f->connection->nfs, path, flags & ~O_APPEND, mode, &f->handle);
	release(f->connection, 0);
	if (result < 0)
		free(f);
	else
		info->fh = (uintptr_t)f;
	return result < 0 ? result : 0;
}

static int open_existing(const char *path, struct fuse_file_info *info)
{
	return open_file(path, info->flags & ~(O_CREAT | O_EXCL), 0, info);
}

static int create(const char *path, mode_t mode, struct fuse_file_info *info)
{
	return open_file(path, info->flags | O_CREAT, mode & 07777, info);
}

static int read_at(const char *path, char *data, size_t size, off_t offset,
		   struct fuse_file_info *info)
{
	(void)path;
	ON_FILE(nfs_pread(c->nfs, f->handle, offset, size, data));
}

static int write_at(const char *path, const char *data, size_t size, off_t offset,
		    struct fuse_file_info *info)
{
	(void)path;
	ON_FILE(nfs_pwrite(c->nfs, f->handle, offset, size, data));
}

static int sync_file(const char *path, int data_only, struct fuse_file_info *info)
{
	(void)path;
	(void)data_only;
	ON_FILE(nfs_fsync(c->nfs, f->handle));
}

/* At every close(2): send what was written to the server, so that close(2) reports errors. */
static int flush(const char *path, struct fuse_file_info *info)
{
	return (info->flags & O_ACCMODE) == O_RDONLY ? 0 : sync_file(path, 0, info);
}

static int close_file(const char *path, struct fuse_file_info *info)
{
	struct file *f = file_of(info);
	struct connection *c = acquire_of(f);

	(void)path;
	nfs_close(c->nfs, f->handle);
	free(f);
	return release(c, 0);
}

static int set_size(const char *path, off_t size, struct fuse_file_info *info)
{
	if (info) {
		ON_FILE(nfs_ftruncate(c->nfs, f->handle, size));
	}
	ON_ANY(nfs_truncate(c->nfs, path, size));
}

static int list(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset,
		struct fuse_file_info *info, enum fuse_readdir_flags flags)
{
	struct connection *c = acquire();
	struct nfsdir *folder;
	int result = nfs_opendir(c->nfs, path, &folder);

	(void)offset;
	(void)info;
	(void)flags;
	if (result < 0)
		return release(c, result);
	for (struct nfsdirent *entry; (entry = nfs_readdir(c->nfs, folder));) {
		struct stat st = {.st_ino = entry->inode, .st_mode = entry->mode};
		if (fill(buffer, entry->name, &st, 0, 0))
			break;
	}
	nfs_closedir(c->nfs, folder);
	return release(c, 0);
}

static int make_folder(const char *path, mode_t mode)
{
	ON_ANY(nfs_mkdir2(c->nfs, path, mode & 07777));
}

static int remove_folder(const char *path)
{
	ON_ANY(nfs_rmdir(c->nfs, path));
}

static int remove_file(const char *path)
{
	ON_ANY(nfs_unlink(c->nfs, path));
}

static int move(const char *from, const char *to, unsigned flags)
{
	if (flags)
		return -EINVAL; /* NFS has no RENAME_EXCHANGE and no RENAME_NOREPLACE */
	ON_ANY(nfs_rename(c->nfs, from, to));
}

static int hard_link(const char *from, const char *to)
{
	ON_ANY(nfs_link(c->nfs, from, to));
}

static int symbolic_link(const char *target, const char *path)
{
	ON_ANY(nfs_symlink(c->nfs, target, path));
}

static int read_link(const char *path, char *target, size_t size)
{
	ON_ANY(nfs_readlink(c->nfs, path, target, size));
}

static int change_mode(const char *path, mode_t mode, struct fuse_file_info *info)
{
	(void)info;
	ON_ANY(nfs_chmod(c->nfs, path, mode & 07777));
}

static int change_owner(const char *path, uid_t uid, gid_t gid, struct fuse_file_info *info)
{
	struct stat st;
	int result = get_attributes(path, &st, info);

	if (result < 0)
		return result;
	/* -1 means "do not change", but libnfs would send it to the server. */
	uid = uid == (uid_t)-1 ? st.st_uid : uid;
	gid = gid == (gid_t)-1 ? st.st_gid : gid;
	ON_ANY(nfs_lchown(c->nfs, path, uid, gid));
}

static int set_times(const char *path, const struct timespec wanted[2], struct fuse_file_info *info)
{
	struct stat st;
	struct timespec now;
	struct timeval times[2];
	int result = get_attributes(path, &st, info);

	if (result < 0)
		return result;
	clock_gettime(CLOCK_REALTIME, &now);
	for (int i = 0; i < 2; i++) {
		struct timespec t = wanted[i].tv_nsec == UTIME_NOW ? now
			: wanted[i].tv_nsec == UTIME_OMIT ? (i ? st.st_mtim : st.st_atim)
			: wanted[i];
		times[i] = (struct timeval){t.tv_sec, t.tv_nsec / 1000};
	}
	ON_ANY(nfs_lutimes(c->nfs, path, times));
}

static int file_system(const char *path, struct statvfs *st)
{
	ON_ANY(nfs_statvfs(c->nfs, path, st));
}

static void *configure(struct fuse_conn_info *kernel, struct fuse_config *config)
{
	kernel->max_read = LARGEST_REQUEST; /* must equal the mount option, or FUSE fails */
	kernel->max_write = LARGEST_REQUEST;
	kernel->max_background = 8 * CONNECTIONS;
	config->use_ino = 1;
	return NULL;
}

static const struct fuse_operations operations = {
	.init = configure,
	.getattr = get_attributes,
	.open = open_existing,
	.create = create,
	.read = read_at,
	.write = write_at,
	.flush = flush,
	.fsync = sync_file,
	.release = close_file,
	.truncate = set_size,
	.readdir = list,
	.mkdir = make_folder,
	.rmdir = remove_folder,
	.unlink = remove_file,
	.rename = move,
	.link = hard_link,
	.symlink = symbolic_link,
	.readlink = read_link,
	.chmod = change_mode,
	.chown = change_owner,
	.utimens = set_times,
	.statfs = file_system,
};

static void no_answer(int signal)
{
	(void)signal;
	dprintf(2, "mount.nfs: %s: the server did not answer within %d s\n", source,
		PATIENCE_SECONDS);
	_exit(MOUNT_FAILED);
}

static void connect_to(const char *url_options)
{
	for (int i = 0; i < CONNECTIONS; i++) {
		const char *colon = strstr(source, ":/");
		char url[4096];
		struct nfs_url *where;

		struct nfs_context *nfs = nfs_init_context();
		snprintf(url, sizeof url, "nfs://%.*s%s?%s", (int)(colon - source), source,
			 colon + 1, url_options);
		where = nfs ? nfs_parse_url_dir(nfs, url) : NULL;
		if (!where || nfs_mount(nfs, where->server, where->path) != 0) {
			const char *reason = nfs ? nfs_get_error(nfs) : "out of memory";
			if (strstr(reason, "nfs_service failed"))
				reason = "the server can't be reached";
			fprintf(stderr, "mount.nfs: %s: %s\n", source, reason);
			exit(MOUNT_FAILED);
		}
		nfs_destroy_url(where);
		nfs_set_autoreconnect(nfs, -1);
		nfs_set_dircache(nfs, 0);
		nfs_umask(nfs, 0); /* the kernel has applied the caller's umask */
		connections[i].nfs = nfs;
		pthread_mutex_init(&connections[i].lock, NULL);
	}
}

/* Append an item to a list, with a separator unless it is the first. */
static void append(char *list, size_t size, char separator, const char *item)
{
	size_t used = strlen(list);

	snprintf(list + used, size - used, "%s%s", used ? (char[]){separator, 0} : "", item);
}

int main(int count, char **words)
{
	static char *const known[] = {"ro", "vers", "nfsvers", "port", "mountport", NULL};
	static const char *const url_names[] = {NULL, "version", "version", "nfsport", "mountport"};
	char url_options[256] = "version=3", fuse_options[4096], item[64], *value;
	const char *folder = NULL;

	source = NULL;
	*fuse_options = 0;
	while (optind < count) {
		int letter = getopt(count, words, "-o:rwvsnfih");
		char *options = optarg;

		if (letter == 1 && !source)
			source = optarg;
		else if (letter == 1)
			folder = optarg;
		else if (letter == 'r')
			append(fuse_options, sizeof fuse_options, ',', "ro");
		/* We ignore all other options of NFS mounts (timeo, hard, nolock, ...). */
		while (letter == 'o' && *options) {
			int which = getsubopt(&options, known, &value);
			if (which == 0)
				append(fuse_options, sizeof fuse_options, ',', "ro");
			else if (which > 0 && value) {
				snprintf(item, sizeof item, "%s=%ld", url_names[which], strtol(value, NULL, 10));
				append(url_options, sizeof url_options, '&', item);
			}
		}
	}
	if (!source || !folder || !strstr(source, ":/")) {
		fprintf(stderr, "usage: mount.nfs SERVER:/PATH FOLDER [-o OPTIONS]\n");
		return 1;
	}
	signal(SIGALRM, no_answer);
	alarm(PATIENCE_SECONDS);
	connect_to(url_options);
	alarm(0);

	append(fuse_options, sizeof fuse_options, ',', "allow_other,default_permissions,subtype=nfs");
	snprintf(item, sizeof item, "max_read=%d", LARGEST_REQUEST);
	append(fuse_options, sizeof fuse_options, ',', item);
	append(fuse_options, sizeof fuse_options, ',', "fsname=");
	/* Skip commas: a comma would end the option. */
	for (const char *s = source; *s; s++)
		if (*s != ',')
			snprintf(fuse_options + strlen(fuse_options), 2, "%c", *s);
	char *fuse_words[] = {words[0], (char *)folder, "-o", fuse_options, NULL};
	return fuse_main(4, fuse_words, &operations, NULL) ? MOUNT_FAILED : 0;
}
