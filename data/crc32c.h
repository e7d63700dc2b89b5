// CRC-32C (Castagnoli), the checksum of every image in a shard.
//
// Reflected polynomial 0x82f63b78, start and final xor 0xffffffff (RFC 3720, appendix B.4):
// "123456789" -> e3069283.
#pragma once

#include <cstdint>
#include <span>

namespace facetrain {

// The checksum of `bytes` appended to what gave `before`: crc32c(b, crc32c(a)) == crc32c(a + b).
// Uses the SSE4.2 instruction where the processor has it.
uint32_t crc32c(std::span<const uint8_t> bytes, uint32_t before = 0);

// The same by table, on any processor.
uint32_t crc32c_portable(std::span<const uint8_t> bytes, uint32_t before = 0);

}  // namespace facetrain
