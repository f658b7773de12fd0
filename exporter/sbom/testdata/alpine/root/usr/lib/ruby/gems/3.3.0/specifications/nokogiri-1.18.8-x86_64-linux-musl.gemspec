Gem::Specification.new do |s|
  s.name = "nokogiri".freeze
  s.homepage = "https://nokogiri.org".freeze
  s.licenses = ["MIT".freeze]
end
