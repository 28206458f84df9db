// Permission to use the tile registers: Linux grants it per process, on request.

#include <sys/syscall.h>
#include <unistd.h>

extern "C" int cream_ask_for_tiles() {
  constexpr int REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;  // asm/prctl.h
  return static_cast<int>(syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA));
}
