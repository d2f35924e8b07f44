/* A wall clock that can be stepped, for whoever is started with this in LD_PRELOAD: only
 * CLOCK_REALTIME is shifted, for this process and all that it forks, by one shared number; where
 * HEDGE_CLOCK names a file, by the one in it, so that others can change it, too. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int64_t none, *shift_s = &none; /* the clock is asked before begin() has run */

__attribute__((constructor)) static void begin(void)
{
	const char *name = getenv("HEDGE_CLOCK");
	int file = name ? open(name, O_RDWR | O_CLOEXEC) : -1;
	int flags = MAP_SHARED | (name ? 0 : MAP_ANONYMOUS);
	void *place = mmap(0, 4096, PROT_READ | PROT_WRITE, flags, file, 0);
	if (place != MAP_FAILED)
		shift_s = place;
	if (file >= 0)
		close(file);
}

int64_t *hedge_shift_s(void)
{
	return shift_s;
}

int clock_gettime(clockid_t id, struct timespec *at)
{
	long done = syscall(SYS_clock_gettime, id, at);
	if (done == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
		at->tv_sec += *shift_s;
	return done;
}

int gettimeofday(struct timeval *at, void *zone)
{
	long done = syscall(SYS_gettimeofday, at, zone);
	at->tv_sec += *shift_s;
	return done;
}

time_t time(time_t *at)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	if (at)
		*at = now.tv_sec;
	return now.tv_sec;
}
